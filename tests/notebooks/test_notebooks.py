"""The notebooks: their sources run to the end with what they assert, and what is committed was made from them."""

import os
import shutil

import nbformat
import pytest

from notebooks import build

SCRIPTS = build.scripts()
pytestmark = pytest.mark.timeout(1500)  # a minute of work on two cores, which others may keep busy


@pytest.fixture(scope="module")
def place(tmp_path_factory, warm):
    """A folder like the checkout's, in which the chain that notebooks share has run."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "recipes").symlink_to(build.HERE.parent / "recipes")
    (folder / "notebooks").mkdir()
    for path in (*SCRIPTS, build.HERE / "little.yaml"):
        shutil.copy(path, folder / "notebooks")
    command = ["../recipes/rounds.py", "--plan", "little.yaml", "--output_dir", "runs/little"]
    ran = warm.run(command, dict(os.environ), cwd=folder / "notebooks", timeout=1200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "notebooks"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_notebook_asserts_holds(script, place, warm):
    ran = warm.run([place / script.name], dict(os.environ), cwd=place)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_is_committed_was_made_of_the_source(script):
    made = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(made)
    assert build.faults(made, build.read(script)) == []
    shown = {kind for cell in made.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert "image/svg+xml" in shown


def test_a_notebook_is_executed_and_what_is_of_one_machine_refused(tmp_path):
    script = tmp_path / "1_some.py"
    printed = "import sys\n\nprint('shown')\nprint('bars', file=sys.stderr)"
    script.write_text(f"# %% [markdown]\n# Some text\n\n# %%\n{printed}\n\n# %%\n6 * 7\n")
    made = build.execute(build.read(script), tmp_path)
    assert [
        output.get("text") or output["data"]["text/plain"] for cell in made.cells[1:] for output in cell.outputs
    ] == [
        "shown\n",
        "42",
    ]
    assert build.faults(made, build.read(script)) == []
    assert nbformat.writes(made) == nbformat.writes(build.execute(build.read(script), tmp_path))
    path = build.build(script)
    assert path.name == "1_some.ipynb"
    assert path.stat().st_size < build.LARGEST
    script.write_text("# %%\nprint('/home/someone/runs', 'x' * 160_000)\n")
    with pytest.raises(ValueError, match=r"1_some.py: found \d+ bytes, expected at most 150000; found '/home/someone"):
        build.build(script)
    assert "42" in path.read_text()  # the old one is as it was
    assert "found other cells" in build.faults(made, build.read(script))[0]

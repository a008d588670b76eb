"""Which code a step's identity is of, and steps of older code."""

import pytest
import yaml

from llama_align.recipe import RecipeError
from llama_align.rounds import Plan, Run, code
from llama_align.rounds.code import code_of
from llama_align.rounds.status import standings

from .conftest import journal, make_run


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of a checkout with two recipes, of which one reaches more than the other."""
    root = tmp_path / "src" / "tool"
    for room in ("low", "high", "apart"):
        (root / room).mkdir(parents=True)
        (root / room / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    (root / "low" / "sums.py").write_text("def total(x): return sum(x)\n")
    (root / "low" / "form.jinja").write_text("{{ x }}")
    (root / "high" / "__init__.py").write_text("def late():\n    from ..low.sums import total\n    return total\n")
    (root / "apart" / "other.py").write_text("import os\n")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "near.py").write_text("from tool import high\n")
    (tmp_path / "far.py").write_text("import tool.apart.other\n")
    monkeypatch.setattr(code, "PACKAGE", root)
    return root


def codes(package) -> tuple[str, str]:
    return tuple(code_of(package.parents[1] / f"{name}.py") for name in ("near", "far"))


def test_what_a_recipe_can_import_counts_and_nothing_else(package):
    near, far = codes(package)
    for file, reached in (("low/sums.py", "near"), ("low/form.jinja", "near"), ("apart/other.py", "far")):
        (package / file).write_text((package / file).read_text() + "\n# more")
        changed = codes(package)
        assert (changed[0] != near, changed[1] != far) == (reached == "near", reached == "far"), file
        near, far = changed
    (package / "low" / "unused.py").write_text("")
    (package / "low" / "__pycache__").mkdir()
    for name in ("__pycache__/sums.cpython-311.pyc.140", ".sums.py.swp"):  # being compiled, being edited
        (package / "low" / name).write_text("")
    assert codes(package) == (near, far)
    (package / "__init__.py").write_text("x = 1")  # runs whatever is imported
    assert all(one != other for one, other in zip(codes(package), (near, far), strict=True))


def test_installed_it_is_the_version_and_the_script(package):
    (package.parents[1] / "pyproject.toml").unlink()
    before = codes(package)
    (package / "low" / "sums.py").write_text("")
    assert codes(package) == before
    assert before[0].startswith("0.")
    (package.parents[1] / "near.py").write_text("")
    assert codes(package)[0] != before[0]


def test_the_recipes_of_this_checkout_reach_what_they_run_on_and_not_the_manager():
    script = code.PACKAGE.parents[1] / "recipes" / "dpo.py"
    reached, left = set(), code._imported(script)
    while left:
        reached |= left
        left = {other for file in left for other in code._imported(file)} - reached
    names = {str(file.relative_to(code.PACKAGE)) for file in reached}
    assert {"trainers/dpo.py", "kernels/head.py", "chat/contract.py", "models/modeling_llama_herd.py"} <= names
    assert not any(name.startswith(("rounds/", "curation/", "cli.py")) for name in names)


def edited(place) -> None:
    script = place / "recipes" / "make.py"
    script.write_text(script.read_text() + "# another line\n")


def test_a_step_whose_code_changed_is_run_again_and_says_why(place):
    make_run(place).execute()
    edited(place)
    assert [(row.state, row.why) for row in standings(make_run(place))] == [
        ("waiting", "its code is another (accept_older: true takes what older code has made)"),
        ("waiting", "first is another"),
    ]
    make_run(place).execute()
    assert journal(place) == ["make", "use"] * 2


def test_steps_of_older_code_are_taken_by_a_key(place, capsys):
    run = make_run(place)
    run.execute()
    edited(place)
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    (place / "plan.yaml").write_text(yaml.safe_dump(plan | {"accept_older": True}))
    again = make_run(place)
    assert again.folders == run.folders
    assert [row.state for row in standings(again)] == ["done", "done"]
    capsys.readouterr()
    again.execute()
    assert capsys.readouterr().out.count("by other code, which accept_older takes") == 2
    assert journal(place) == ["make", "use"]
    # other settings are another matter, and stand on what older code has made
    plan["steps"][1]["set"]["more"] = 1
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    Run(
        Plan.load(place / "plan.yaml", place / "recipes", accept_older=True), place / "run", place / "recipes"
    ).execute()
    assert journal(place) == ["make", "use", "use"]


@pytest.mark.parametrize("what", ["its code", "data.txt"])
def test_a_step_is_not_begun_with_other_code_or_files_than_its_identity_has(place, what):
    (place / "data.txt").write_text("one")
    text = (place / "plan.yaml").read_text().replace("size: 4", f"size: 4\n    data: {place}/data.txt")
    (place / "plan.yaml").write_text(text)
    run = make_run(place)
    if what == "its code":
        edited(place)
    else:
        (place / "data.txt").write_text("another")
    with pytest.raises(RecipeError, match=rf"step 'first': .*{what} has changed since this run was begun"):
        run.execute()
    make_run(place).execute()
    assert journal(place) == ["make", "use"]


def test_the_key_is_true_or_false(place):
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    (place / "plan.yaml").write_text(yaml.safe_dump(plan | {"accept_older": "yes"}))
    with pytest.raises(ValueError, match="field 'accept_older': found 'yes', expected true or false") as error:
        make_run(place)
    assert not isinstance(error.value, RecipeError)

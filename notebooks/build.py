"""Executes the notebooks: of every percent-format .py here an .ipynb beside it, with its outputs.

python notebooks/build.py            # all of them; or the names of some
"""

import argparse
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from llama_align.runtime.files import write_text

HERE = Path(__file__).resolve().parent
LARGEST = 150_000  # bytes
SECONDS = 600  # that a cell may take on a busy machine
SVG, FINER = "image/svg+xml", re.compile(r"(\d\.\d\d)\d+")  # than a hundredth of a point, which nobody sees
DIGEST = re.compile(r"(?<=[a-z])-[0-9a-f]{10}\b")  # of a step's folder, another one with every change of the code
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
# addresses, paths, digests of folders, colours of a terminal
ELSEWHERE = re.compile(
    rf"https?://(?!www\.w3\.org/)\S+|{DIGEST.pattern}|\\u001b\["
    r"|(?<![\w./])/(?:home|root|tmp|work|Users|usr|opt|venv)/[^\s\"'<]+"
)


def scripts() -> list[Path]:
    """The notebooks' sources, in their order."""
    return sorted(HERE.glob("[0-9]*.py"))


def read(script: Path) -> nbformat.NotebookNode:
    """A notebook without outputs; cells are named by their place, so that equal sources give equal bytes."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.NotebookNode()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path = HERE) -> nbformat.NotebookNode:
    """The notebook with what its cells give in a fresh kernel; what goes to stderr, bars and warnings, is left out.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            shown = output if output.output_type == "stream" else output.get("data", {})
            for kind in set(shown) - {"output_type", "name"}:
                shown[kind] = DIGEST.sub("", FINER.sub(r"\1", shown[kind]) if kind == SVG else shown[kind])
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def faults(notebook: nbformat.NotebookNode, source: nbformat.NotebookNode) -> list[str]:
    """What is wrong with an executed notebook; nothing where it may be kept."""
    text, found = nbformat.writes(notebook), []
    if len(text.encode()) > LARGEST:
        found.append(f"found {len(text.encode())} bytes, expected at most {LARGEST}")
    if [(cell.cell_type, cell.source) for cell in notebook.cells] != [(c.cell_type, c.source) for c in source.cells]:
        found.append("found other cells than in its .py, expected the same: python notebooks/build.py")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    if not outputs or [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("found cells that were not executed in order, expected outputs")
    found += [f"found the error {output.evalue!r}" for output in outputs if output.output_type == "error"]
    found += [
        f"found {hit[0]!r}, expected no address, path, digest or colour of one machine"
        for hit in ELSEWHERE.finditer(text)
    ]
    return found


def build(script: Path) -> Path:
    """Writes a notebook's .ipynb, whole or not at all.

    Raises:
        ValueError: it is too large, or holds what is of one machine alone.
    """
    made = execute(read(script))
    if wrong := faults(made, read(script)):
        raise ValueError(f"{script.name}: {'; '.join(wrong)}")
    path = script.with_suffix(".ipynb")
    write_text(path, nbformat.writes(made) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of notebooks, as 01_tokens; all unless told")
    names = parser.parse_args().names
    for script in scripts():
        if not names or script.stem in names:
            print(f"{script.stem}: {build(script).stat().st_size} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

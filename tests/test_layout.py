"""The house: one room per subject, imports downwards only, files of a size that can be read."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "llama_align"
# from the ground up; a room imports from lower floors alone, those of one floor do not know each other
FLOORS = [
    ["kernels", "sizes"],
    ["runtime"],
    ["models"],
    ["chat"],
    ["data"],
    ["metrics", "averaging", "sandbox", "scaling"],
    ["sampling"],
    ["rewards"],
    ["publish"],
    ["trainers"],
    ["report", "curation", "pretraining"],
    ["recipe"],
    ["rejection"],
    ["rounds", "annotate", "benchmarks", "evaluation", "talk", "refine", "people"],
    ["notebook"],
    ["cli"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or within a function."""
    package = ["llama_align", *file.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("llama_align.")}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_nothing_stands_loose_at_the_root():
    assert {file.stem for file in SOURCE.glob("*.py")} == {"__init__", "__main__"}
    assert {folder.name for folder in SOURCE.iterdir() if any(folder.glob("*.py"))} <= set(FLOOR)


@pytest.mark.parametrize("room", sorted(set(FLOOR)))
def test_imports_run_downwards(room):
    upwards = [
        (str(file.relative_to(SOURCE)), name)
        for file in FILES
        if room_of(file) == room
        for name in imported(file)
        if (other := name.split(".")[1]) in FLOOR and other != room and FLOOR[other] >= FLOOR[room]
    ]
    assert upwards == []


@pytest.mark.parametrize("room", sorted(set(FLOOR)))
def test_what_is_imported_within_a_function_is_there(room):
    for file in (file for file in FILES if room_of(file) == room):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                assert base.is_dir() or base.with_suffix(".py").is_file(), f"{file}:{node.lineno}"


def test_no_file_is_longer_than_a_person_reads():
    lengths = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_tests_mirror_the_rooms():
    folders = {folder.name for folder in Path(__file__).parent.iterdir() if any(folder.glob("test_*.py"))}
    assert folders - {"launch", "recipes", "fuzz", "docs", "notebooks"} <= set(FLOOR)

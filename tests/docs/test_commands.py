"""Every command on the pages is one that would start: its program, files, options and their values are looked at."""

import argparse
import ast
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from llama_align import cli
from llama_align.cli.run import command_of
from llama_align.cli.validate import problems_of
from llama_align.recipe.reading import check_options
from llama_align.rounds.expand import expand
from llama_align.rounds.steps import read_steps, read_yaml

from .reading import PAGES, ROOT, commands, files

FOUND = [command for page in PAGES for command in commands(page)]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PINNED = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHERS = {"transformers"}  # packages whose extras are their own
PLACEHOLDERS = ("...", "FILE", "FOLDER", "RUN", "COMMAND")
HUB = ("auth login", "download")  # of huggingface_hub's own command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout's files, and what the pages tell the reader to copy and to write."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("recipes", "accelerate_configs", "benchmarks", "tests", "docs", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    for name, to in (command.words[2:4] for command in FOUND if command.words[:2] == ("llama-align", "cp")):
        if not (folder / to).exists():
            assert cli.main(["cp", name, str(folder / to)]) == 0
    for name, content in (file for page in PAGES for file in files(page)):
        if not (folder / name).exists():
            (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("command", dict.fromkeys(FOUND), ids=str)
def test_a_command_would_start(command, place, monkeypatch):
    monkeypatch.chdir(place)
    program, *args = command.words
    CHECKS[program](args)


def test_the_pages_have_commands_of_every_kind():
    assert len(FOUND) > 150
    assert {command.words[0] for command in FOUND} >= {"llama-align", "python", "accelerate", "make", "pip"}
    assert {command.words[1] for command in FOUND if command.words[0] == "llama-align"} >= set(cli.COMMANDS)


@pytest.mark.parametrize(
    "wrong",
    [
        "llama-align chatt runs/demo", "llama-align budget --sizes x", "llama-align rounds run nowhere.yaml",
        "llama-align run dpo --config mine/dpo.yaml --betta 1", "llama-align cp herd-nanoo mine2", "make demon",
        "llama-align validate mine/sandbox.yml", "llama-align rounds run mine/rounds.yaml --until sftt",
        "python recipes/sft.py --config recipes/herd-nano/sfft.yaml", "python benchmarks/margins.py --bass x",
        "accelerate launch --num_process 2 recipes/sft.py", "pip install -e .[ddev]", "python -m tests.nothing",
    ],
)  # fmt: skip
def test_a_wrong_one_would_not(wrong, place, monkeypatch):
    monkeypatch.chdir(place)
    program, *args = wrong.split()
    with pytest.raises((AssertionError, ValueError, OSError, SystemExit)):
        CHECKS[program](args)


def _llama_align(args: list[str]) -> None:
    name, *rest = args
    if name in PLACEHOLDERS or name.startswith("--"):  # of the command itself
        return
    assert name in cli.COMMANDS, f"found {name!r}, expected one of {', '.join(cli.COMMANDS)}"
    if not rest or "--help" in rest:
        return
    if name in ("rounds", "people") and len(rest) == 1:  # named, not written out
        with pytest.raises(SystemExit) as ended:
            cli.parser(name).parse_args([name, *rest, "--help"])
        assert ended.value.code == 0
        return
    if name in cli.RECIPES:
        name, rest = "run", [cli._recipe_of(name, rest), *rest]
    options = cli.parser(name).parse_args([name, *rest])
    if name == "run":
        command_of(options.rest, options.launch)
    elif name == "cp":
        from llama_align.cli.cp import source_of

        source_of(options.name)
    elif name == "validate":
        for file in (file for pattern in options.files for file in _files(pattern)):
            assert problems_of(file, options.recipe)[1] == []
    elif name == "rounds":
        _plan(options.plan, [options.start, options.until] if "start" in options else [])


def _files(pattern: str) -> list[Path]:
    found = sorted(Path().glob(pattern))
    assert found, pattern
    return found


def _plan(path: str, names: list[str | None]) -> None:
    steps = {step.name for step in expand(read_steps(read_yaml(Path(path)), None))}
    assert {name for name in names if name} <= steps


def _python(args: list[str]) -> None:
    if args[0] == "-m" and args[1] in ("pip", "pytest", "venv"):
        {"pip": _pip, "pytest": _pytest, "venv": lambda args: None}[args[1]](args[2:])
    elif args[0] == "-m" and args[1] == "llama_align":
        _llama_align(args[2:])
    elif args[0] == "-m":
        module = Path(*args[1].split("."))
        _own(module / "__main__.py" if module.is_dir() else module.with_suffix(".py"), args[2:])
    elif args[0] not in PLACEHOLDERS and args[0] != "recipes/...":
        _own(Path(args[0]), args[1:])


def _own(script: Path, args: list[str]) -> None:
    """A script of the project: a recipe's options are read as the recipe does, of others the names are looked up."""
    assert script.is_file(), script
    if script.parent == Path("recipes"):
        place = args.index("--config") + 1 if "--config" in args else 0
        if place and args[place] in PLACEHOLDERS:
            args = args[: place - 1] + args[place + 1 :]
        check_options(script, args)
        if "--plan" in args:
            _plan(args[args.index("--plan") + 1], args[args.index("--until") + 1 :][:1] if "--until" in args else [])
    else:
        given = {arg.partition("=")[0] for arg in args if arg.startswith("--")}
        known = _options(script)
        assert all(any(re.fullmatch(name, option) for name in known) for option in given), (given, known)


@cache
def _options(script: Path) -> set[str]:
    """The options that a script adds to its parser, as patterns: a name made of a variable may be any."""
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    calls = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"]
    found = set()
    for arg in (arg for node in calls for arg in node.args):
        parts = arg.values if isinstance(arg, ast.JoinedStr) else [arg]
        found.add("".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in parts))
    return found


def _accelerate(args: list[str]) -> None:
    if args[0] != "launch":
        raise ValueError(f"accelerate {args[0]}")
    if not args[1:]:
        return
    parser = launch_command_parser()
    parser.allow_abbrev = False
    launch = parser.parse_args(args[1:])
    if launch.config_file:
        assert problems_of(Path(launch.config_file)) == ("an accelerate configuration", [])
    script = ["-m", launch.training_script] if launch.module else [launch.training_script]
    _python([*script, *launch.training_script_args])


def _make(args: list[str]) -> None:
    assert set(args) <= TARGETS


def _pip(args: list[str]) -> None:
    known = argparse.ArgumentParser(allow_abbrev=False)
    known.add_argument("action", choices=["install", "wheel"])
    for name in ("-c", "-r", "-w", "-e"):
        known.add_argument(name)
    known.add_argument("--no-deps", action="store_true")
    known.add_argument("names", nargs="*")
    options = known.parse_intermixed_args(args)
    assert all(Path(file).is_file() for file in (options.c, options.r) if file)
    for name in [*options.names, *([options.e] if options.e else [])]:
        package, _, extras = name.rstrip("]").partition("[")
        if package in (".", "llama_align", "llama-align"):
            assert {*filter(None, extras.split(","))} <= set(EXTRAS)
        elif options.c and not package.endswith(".whl"):
            assert package.lower() in PINNED
        else:
            assert package in OTHERS or "==" in name or package.endswith(".whl")


def _pytest(args: list[str]) -> None:
    assert all(Path(arg).is_file() for arg in args if arg.endswith(".py"))


def _hub(args: list[str]) -> None:
    assert " ".join(args).startswith(HUB)


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "llama-align": _llama_align, "python": _python, "python3": _python, "accelerate": _accelerate, "make": _make,
    "pip": _pip, "hf": _hub,
}  # fmt: skip

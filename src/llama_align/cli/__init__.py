"""The command line of the package: `llama-align COMMAND`, or `python -m llama_align COMMAND`.

A command is a module with `add_options(parser)` and `main(options)`, imported when it is asked for, and a line in
`COMMANDS`.
"""

import argparse
import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence

from .. import __version__

COMMANDS = {  # name -> module and what it does
    "ls": (".ls", "list what comes with the package: recipes, YAMLs, accelerate configurations, data cards"),
    "cp": (".cp", "copy any of these to where you can change it"),
    "run": (".run", "run a recipe in this process, or by accelerate with --launch"),
    "eval": (".run", "measure checkpoints: on prompts (run evaluate) or, where it names tasks, on benchmarks"),
    "annotate": (".run", "collect preferences on a model's own answers: run annotate"),
    "people": (".people", "ask people for preferences on a page, and export what they said"),
    "rounds": (".rounds", "run a plan of steps and rounds, or say how it stands"),
    "demo": (".demo", "run the whole chain on the sandbox, on two cores in minutes"),
    "chat": (".chat", "talk to a checkpoint, or to the last model of a run, in the terminal"),
    "validate": (".validate", "name every wrong key and value of a YAML, with its line"),
    "budget": (".budget", "what a pretraining run costs: from parameters, tokens, FLOPs or hours, the rest"),
    "schema": (".schema", "JSON Schema of recipes and plans, for editors"),
    "convert": (".convert", "write a Llama checkpoint as a LlamaHerd, back, or as a GGUF file"),
    "publish": (".publish", "publish a checkpoint, a programme of rounds or records on the Hub"),
    "add-tokens": (
        ".add_tokens",
        "give a base model Llama 3's control tokens, and its vocabulary pieces for a language",
    ),
}
RECIPES = {"eval": "evaluate", "annotate": "annotate"}  # command -> the recipe that it stands for


def parser(command: str | None) -> argparse.ArgumentParser:
    """All commands by name, and the options of one."""
    top = argparse.ArgumentParser(
        prog="llama-align",
        description="The recipes of llama_align and tools beside them.",
        epilog="llama-align COMMAND --help says what a command does.",
    )
    top.add_argument("--version", action="version", version=f"llama_align {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, short) in COMMANDS.items():
        one = commands.add_parser(name, help=short, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == command:
            importlib.import_module(module, __name__).add_options(one)
    return top


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake ends in a message on stderr and exit code 2, an interrupt in 130."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        if args and args[0] in RECIPES:
            args[:1] = ["run", _recipe_of(args[0], args[1:])]
        options = parser(args[0] if args else None).parse_args(args)
        module, _ = COMMANDS[options.command]
        del options.command
        code = importlib.import_module(module, __name__).main(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        return _reader_gone() or _wrong(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT  # as a shell has it
    except (ValueError, OSError, ImportError) as error:
        return _wrong(error)


def _recipe_of(command: str, args: list[str]) -> str:
    """The recipe that a command stands for: `eval` is `benchmark` where tasks are named, on the line or in a YAML."""
    if command != "eval":
        return RECIPES[command]
    from ..recipe.reading import config_path
    from ..recipe.yaml_files import read_yaml

    path, rest = config_path(args)
    named = {arg[2:].partition("=")[0] for arg in rest if arg.startswith("--")}
    return "benchmark" if "tasks" in {*named, *(read_yaml(path).content if path else ())} else RECIPES[command]


def _wrong(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _reader_gone() -> int | None:
    """The exit code where whoever read standard output has read enough, as `head` does; None: another pipe broke."""
    asked = select.poll()
    asked.register(1, 0)  # errors are told unasked
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # to which Python writes what is left, at its end
    return 128 + signal.SIGPIPE

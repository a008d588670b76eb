"""The command line of the package: `llama-align COMMAND`, or `python -m llama_align COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from . import __version__
from .chat.adding import add_tokens
from .models.convert import DTYPE_NAMES, FORMS, check_output, convert
from .models.gguf import check_file
from .runtime.identity import ADAPTER

CONVERT = """\
Write a Llama checkpoint as a LlamaHerd, a LlamaHerd as a Llama, or either as a GGUF file for llama.cpp.

SOURCE is a folder with config.json and safetensors weights in transformers' form, whatever says "model_type": "llama";
or a LlamaHerd. Language models, sequence classifiers (reward models) and token classifiers (value models) alike. Which
of the two forms it has is read from config.json.

SOURCE may be the folder of an adapter of PEFT's. It is merged into the base that it names, in float32, and written in
the type of that base; --to herd and --to llama are the forms of the merged model. Tokenizer and licence are those of
the base where the adapter has none. An adapter trained on a base in 4 or 8 bits is merged into what rounding made of
that base, which takes the package bitsandbytes.

Names and numbers of the weights are the same in both forms. Shards are copied one by one, whatever their size; the
configuration is rewritten; tokenizer, chat template, generation settings and licence go along. The way there and back
gives the same weights, byte for byte.

The recipes train what has the tokenizer of a family whose form of dialogs they know; `llama-align add-tokens` gives
Llama 3's to any other. README.md says which published models these are, and what has been tried.

With --to gguf, OUTPUT is one file of a language model and its tokenizer, of Llama 3's kind (style llama3 of
recipes/tokenizer.py is one) or of Llama 2's; others are refused. It needs the extra gguf.

Before anything is written, every tensor the configuration calls for is looked up. OUTPUT appears when it is whole.
"""
CONVERT_EXAMPLES = """\
examples:
  a published Llama as a LlamaHerd
    llama-align convert models/Llama-3.2-1B models/herd-1b

  a trained model for all that reads Llama
    llama-align convert runs/dpo exported --dtype bfloat16 --max-shard-size 5GB

  a trained model for llama.cpp
    llama-align convert runs/dpo dpo.gguf --to gguf --dtype bfloat16

  an adapter, merged and published
    llama-align convert runs/sft-lora published --to herd --with-code

  a trained model that loads without llama_align, by trust_remote_code=True
    llama-align convert runs/dpo published --to herd --with-code
"""
ADD_TOKENS = """\
Give a base model Llama 3's control tokens, so that the recipes can train it on dialogs.

SOURCE is a folder with config.json, safetensors weights and a tokenizer: a Llama of any generation or a LlamaHerd.
What its tokenizer lacks of the control tokens is added behind its own tokens, with Llama 3's chat template; text is
encoded as before, and typed text never becomes a control token. Rows of embeddings and head of the tokens there were
stay byte for byte. Those of new ones are the mean of all; <|begin_of_text|> and <|end_of_text|> start from the model's
own begin and end of text.

With --text, byte pair encoding goes on where the tokenizer's own stopped: N further pieces are learned, which start
from the mean of the pieces that spelled them. A tenth of the documents is held out; characters per token before and
after are printed, and written into OUTPUT/vocabulary.json.

OUTPUT appears when it is whole.
"""
ADD_TOKENS_EXAMPLES = """\
examples:
  a published Llama 2 that the recipes can train
    llama-align add-tokens models/Llama-2-7b-hf models/llama-2-chat-tokens --pad-to-multiple-of 64

  two thousand pieces for Hindi, learned from one language of a file of many
    llama-align add-tokens models/TinyLlama models/tiny-hindi --pieces 2000 \\
      --text '{path: tatoeba.jsonl, where: {lang: hin}}' --measure english.jsonl
"""

ROUNDS = """\
Run a plan: a chain of steps, or a programme of rounds, from one YAML. A step that is finished is never run again; one
whose settings or inputs changed is, and so is all that depends on it. Interrupted or killed, the same command goes on.

  run      what is not finished, in order
  status   every step: done, running, waiting, and why it will be run again
  dry-run  the steps as they would be run, rounds written out
  verify   nothing is run; all outputs are compared with the digests they were written with
"""
ROUNDS_EXAMPLES = """\
examples:
  Llama 2's five rounds on two cores
    llama-align rounds run recipes/herd-nano/llama2.yaml --output-dir runs/llama2 --jobs 2

  up to the choice of the second round
    llama-align rounds run recipes/herd-nano/llama2.yaml --output-dir runs/llama2 --until best-2
"""


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="llama-align",
        description="Tools of llama_align. The stages of a recipe are scripts of their own, in recipes/.",
        epilog="llama-align COMMAND --help says what a command does.",
    )
    top.add_argument("--version", action="version", version=f"llama_align {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    short = "write a Llama checkpoint as a LlamaHerd, back, or as a GGUF file"
    one = commands.add_parser("convert", help=short, description=CONVERT, epilog=CONVERT_EXAMPLES, formatter_class=form)
    one.add_argument("source", metavar="SOURCE", help="folder of the checkpoint")
    one.add_argument("output", metavar="OUTPUT", help="folder (gguf: file) to write, which must not be there yet")
    one.add_argument(
        "--to", choices=FORMS, help="form to write (default: of the first two the one SOURCE does not have)"
    )
    one.add_argument("--dtype", choices=DTYPE_NAMES, help="of the written weights (default: as they are)")
    one.add_argument(
        "--max-shard-size", metavar="SIZE", help="largest file of weights, e.g. 5GB or 500MB (default: SOURCE's files)"
    )
    one.add_argument(
        "--overwrite", action="store_true", help="replace a checkpoint at OUTPUT (gguf: a GGUF); nothing else"
    )
    one.add_argument(
        "--with-code",
        action="store_true",
        help="write LlamaHerd's code beside the weights, for machines without llama_align",
    )
    _add_tokens_options(commands, form)
    _add_rounds(commands, form)
    return top


def _add_tokens_options(commands, form) -> None:
    short = "give a base model Llama 3's control tokens, and its vocabulary pieces for a language"
    one = commands.add_parser(
        "add-tokens", help=short, description=ADD_TOKENS, epilog=ADD_TOKENS_EXAMPLES, formatter_class=form
    )
    one.add_argument("source", metavar="SOURCE", help="folder of the checkpoint, with its tokenizer")
    one.add_argument("output", metavar="OUTPUT", help="folder to write, which must not be there yet")
    one.add_argument("--pad-to-multiple-of", type=int, metavar="N", help="for the number of rows, e.g. 64")
    where = "documents to learn pieces from: files, or sources as in a recipe's YAML, {path: ..., where: ...}"
    one.add_argument("--text", nargs="+", default=[], metavar="FILE", help=where)
    one.add_argument("--pieces", type=int, default=0, metavar="N", help="how many pieces to learn from --text")
    one.add_argument(
        "--measure", nargs="+", default=[], metavar="FILE", help="further texts to count characters per token of"
    )
    one.add_argument(
        "--no-control-tokens", action="store_false", dest="control_tokens", help="learn pieces and add nothing else"
    )
    one.add_argument("--overwrite", action="store_true", help="replace a checkpoint at OUTPUT; no other folder")


def _add_rounds(commands, form) -> None:
    short = "run a plan of steps and rounds, or say how it stands"
    one = commands.add_parser("rounds", help=short, description=ROUNDS, epilog=ROUNDS_EXAMPLES, formatter_class=form)
    actions = one.add_subparsers(dest="action", metavar="{run,status,dry-run,verify}", required=True)
    for name in ("run", "status", "dry-run", "verify"):
        action = actions.add_parser(name)
        action.add_argument("plan", metavar="PLAN", help="YAML with the steps")
        action.add_argument("--output-dir", metavar="DIR", help="the run's folder (default: runs/ and the plan's name)")
        action.add_argument("--recipes", metavar="DIR", help="folder of the recipe scripts (default: the plan's)")
        action.add_argument("--seed", type=int, help="instead of the plan's; added to the seed of every step")
        action.add_argument("--launch", metavar="FILE", help="accelerate configuration instead of the plan's")
        if name in ("run", "dry-run"):
            action.add_argument("--from", dest="start", metavar="STEP", help="run none before this step")
            action.add_argument("--until", metavar="STEP", help="run none behind this step")
            action.add_argument("--only", nargs="+", metavar="STEP", help="run no others than these")
        if name == "run":
            action.add_argument("--jobs", type=int, default=1, metavar="N", help="steps at work at once (default: 1)")


def _convert(source: str, output: str, **options) -> str:
    if not (Path(source) / ADAPTER).is_file():
        return f"wrote {convert(source, output, **options)}"
    from .recipe.start import check_checkpoint, folders_below, write_merged  # which take seconds to import

    check_checkpoint(source)
    if options["to"] == "gguf":
        check_file(Path(output), options["overwrite"])
    else:
        for folder in folders_below(Path(source)):
            check_output(folder, Path(output), options["overwrite"])
    beside = Path(output).absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{Path(output).name}.merged.", dir=beside) as folder:
        write_merged(source, Path(folder) / "whole")
        return f"wrote {convert(Path(folder) / 'whole', output, **options)}"


def _add_tokens(text: list[str], measure: list[str], pieces: int, **options) -> str:
    if bool(text) != (pieces > 0):
        raise ValueError(f"pieces: found {pieces} with {len(text)} files of --text, expected both or neither")
    documents = [text for source in text for text in _texts(source)]
    # every tenth, so that of each source some are held out
    held = {"held out of --text": documents[9::10]} if len(documents) > 9 else {}
    learned = [text for number, text in enumerate(documents) if number % 10 != 9]
    measured = held | {source: _texts(source) for source in measure}
    report = add_tokens(texts=learned, pieces=pieces, measured=measured, **options)
    lines = [
        f"wrote {options['output']}: {len(report['control_tokens'])} control tokens and {report['pieces']} pieces, "
        f"{report['tokens']['before']} tokens before and {report['tokens']['after']} after"
    ]
    if measured:
        lines += ["", "| characters per token | before | after |", "|---|---|---|"]
    for name, found in report["characters_per_token"].items():
        lines.append(f"| {name} | {found['before']:.3f} | {found['after']:.3f} |")
    return "\n".join(lines)


def _texts(source: str) -> list[str]:
    """The texts of a file, or of a source written as a mapping in YAML."""
    from .data import load_records  # which takes seconds to import

    read = yaml.safe_load(source) if source.startswith("{") else {"path": source}
    return [document.text for document in load_records([read], "document")[0]]


COMMANDS = {"convert": _convert, "add-tokens": _add_tokens}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake ends in a message on stderr and exit code 2."""
    found = parser().parse_args(args)
    if found.command == "rounds":
        from .rounds.command import main as rounds  # imports what trains, which the others do not need

        return rounds(found)
    options = vars(found)
    try:
        print(COMMANDS[options.pop("command")](**options))
    except (ValueError, OSError, ImportError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0

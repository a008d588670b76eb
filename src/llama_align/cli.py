"""The command line of the package: `llama-align COMMAND`, or `python -m llama_align COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from . import __version__
from .models.convert import DTYPE_NAMES, check_output, convert
from .runtime.identity import ADAPTER

CONVERT = """\
Write a Llama checkpoint as a LlamaHerd, or a LlamaHerd as a Llama.

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

The recipes train what has the tokenizer of a family whose form of dialogs they know; any other they refuse, whatever
the weights. README.md says which published models these are, and what has been tried.

Before anything is written, every tensor the configuration calls for is looked up. OUTPUT appears when it is whole.
"""
CONVERT_EXAMPLES = """\
examples:
  a published Llama as a LlamaHerd
    llama-align convert models/Llama-3.2-1B models/herd-1b

  a trained model for all that reads Llama (llama.cpp's converter refuses tokenizers of recipes/tokenizer.py)
    llama-align convert runs/dpo exported --dtype bfloat16 --max-shard-size 5GB

  an adapter, merged and published
    llama-align convert runs/sft-lora published --to herd --with-code

  a trained model that loads without llama_align, by trust_remote_code=True
    llama-align convert runs/dpo published --to herd --with-code
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
    short = "write a Llama checkpoint as a LlamaHerd, or back"
    one = commands.add_parser("convert", help=short, description=CONVERT, epilog=CONVERT_EXAMPLES, formatter_class=form)
    one.add_argument("source", metavar="SOURCE", help="folder of the checkpoint")
    one.add_argument("output", metavar="OUTPUT", help="folder to write, which must not be there yet")
    one.add_argument("--to", choices=("herd", "llama"), help="form to write (default: the one SOURCE does not have)")
    one.add_argument("--dtype", choices=DTYPE_NAMES, help="of the written weights (default: as they are)")
    one.add_argument(
        "--max-shard-size", metavar="SIZE", help="largest file of weights, e.g. 5GB or 500MB (default: SOURCE's files)"
    )
    one.add_argument("--overwrite", action="store_true", help="replace a checkpoint at OUTPUT; no other folder")
    one.add_argument(
        "--with-code",
        action="store_true",
        help="write LlamaHerd's code beside the weights, for machines without llama_align",
    )
    return top


def _convert(source: str, output: str, **options) -> Path:
    if not (Path(source) / ADAPTER).is_file():
        return convert(source, output, **options)
    from .recipe.start import check_checkpoint, folders_below, write_merged  # which take seconds to import

    check_checkpoint(source)
    for folder in folders_below(Path(source)):
        check_output(folder, Path(output), options["overwrite"])
    beside = Path(output).absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{Path(output).name}.merged.", dir=beside) as folder:
        write_merged(source, Path(folder) / "whole")
        return convert(Path(folder) / "whole", output, **options)


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake ends in a message on stderr and exit code 2."""
    options = vars(parser().parse_args(args))
    options.pop("command")
    try:
        output = _convert(**options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0

"""`llama-align convert`."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from ..models.convert import DTYPE_NAMES, FORMS, check_output, convert
from ..models.gguf import check_file
from ..runtime.identity import ADAPTER

DESCRIPTION = """\
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
EXAMPLES = """\
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


def add_options(one: argparse.ArgumentParser) -> None:
    one.description, one.epilog = DESCRIPTION, EXAMPLES
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


def main(options: argparse.Namespace) -> None:
    written = _convert(**vars(options))
    if options.to != "gguf":  # one file
        from ..recipe.results import hand_on  # which takes seconds to import

        hand_on(options.source, options.output, "convert")
    print(f"wrote {written}")


def _convert(source: str, output: str, **options) -> Path:
    if not (Path(source) / ADAPTER).is_file():
        return convert(source, output, **options)
    from ..recipe.start import check_checkpoint, folders_below, write_merged  # which take seconds to import

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
        return convert(Path(folder) / "whole", output, **options)

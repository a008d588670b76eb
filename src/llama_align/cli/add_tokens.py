"""`llama-align add-tokens`."""

import argparse

import yaml

from ..chat.adding import add_tokens

DESCRIPTION = """\
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
EXAMPLES = """\
examples:
  a published Llama 2 that the recipes can train
    llama-align add-tokens models/Llama-2-7b-hf models/llama-2-chat-tokens --pad-to-multiple-of 64

  two thousand pieces for Hindi, learned from one language of a file of many
    llama-align add-tokens models/TinyLlama models/tiny-hindi --pieces 2000 \\
      --text '{path: tatoeba.jsonl, where: {lang: hin}}' --measure english.jsonl
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description, one.epilog = DESCRIPTION, EXAMPLES
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


def main(options: argparse.Namespace) -> None:
    print(_add_tokens(**vars(options)))


def _add_tokens(text: list[str], measure: list[str], pieces: int, **options) -> str:
    from ..recipe.results import hand_on  # which takes seconds to import

    if bool(text) != (pieces > 0):
        raise ValueError(f"pieces: found {pieces} with {len(text)} files of --text, expected both or neither")
    documents = [text for source in text for text in _texts(source)]
    # every tenth, so that of each source some are held out
    held = {"held out of --text": documents[9::10]} if len(documents) > 9 else {}
    learned = [text for number, text in enumerate(documents) if number % 10 != 9]
    measured = held | {source: _texts(source) for source in measure}
    report = add_tokens(texts=learned, pieces=pieces, measured=measured, **options)
    hand_on(options["source"], options["output"], "add-tokens")
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
    from ..data import load_records  # which takes seconds to import

    try:
        read = yaml.safe_load(source) if source.startswith("{") else {"path": source}
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: {error}") from error
    return [document.text for document in load_records([read], "document")[0]]

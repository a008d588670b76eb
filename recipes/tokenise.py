"""Tokenises sources of documents into mapped files, once for all runs that read them.

python recipes/tokenise.py --config recipes/herd-nano-real/tokenise.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import DataSource
from llama_align.pretraining import Retrieval, described, open_sources, tokenise, write_retrieval
from llama_align.pretraining.write import FILE_CHARACTERS


@dataclass
class TokeniseArguments:
    output_dir: str = field(metadata={"help": "where a folder goes for every source, <its name>-<digest>"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents"})
    tokenizer: str = field(default="", metadata={"help": "a tokenizer, a path or Hub name"})
    retrieval: list[dict] = field(
        default_factory=list,
        metadata={
            "help": "sources made of the text of the datasets, in which keys are said and asked for at the end: length "
            "and documents of each, and needles (a document's, at most), digits, copies (share of documents that "
            "instead say a passage twice), seed, name"
        },
    )
    workers: int = field(default=1, metadata={"help": "processes that encode; one more reads"})
    file_characters: int = field(
        default=FILE_CHARACTERS, metadata={"help": "characters of text in a file, what a kill can cost a worker"}
    )


def main(args: TokeniseArguments) -> None:
    recipe.one_process()
    asked = [Retrieval.parse(value, number) for number, value in enumerate(args.retrieval)]
    tokenizer = recipe.load_tokenizer(args.tokenizer, dialogs=False)
    folders = []
    for source in map(DataSource.parse, args.datasets):
        if source.format == "tokens":
            raise recipe.RecipeError(f"data source {source.path}, key 'format': found tokens, expected documents")
        folders.append(tokenise(source, tokenizer, args.output_dir, args.workers, args.file_characters))
        recipe.say(f"{source.label}: {folders[-1]}")
    if asked:
        texts = [one.tokens for one in open_sources(list(map(str, folders)), tokenizer, args.output_dir)]
        folders += [write_retrieval(one, folders[: len(texts)], texts, tokenizer) for one in asked]
    sources = open_sources([{"path": str(folder)} for folder in folders], tokenizer, args.output_dir)
    recipe.say(described(sources))
    counts = {one.name: {"documents": one.tokens.documents, "tokens": one.tokens.tokens} for one in sources}
    recipe.write_json(f"{args.output_dir}/metrics.json", {"sources": counts})


if __name__ == "__main__":
    recipe.run(main, TokeniseArguments, doc=__doc__)

"""Trains a tokenizer on documents.

python recipes/tokenizer.py --config recipes/herd-nano/tokenizer.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.chat import train_tokenizer
from llama_align.data import characters, load_records


@dataclass
class TokenizerArguments:
    output_dir: str = field(metadata={"help": "where the tokenizer goes"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents"})
    vocab_size: int = field(default=128256, metadata={"help": "ids in total, control tokens included"})
    style: str = field(default="llama3", metadata={"help": "llama3 (byte-level) or llama2 (bytes as fallback, digits)"})
    num_special_tokens: int = field(default=256, metadata={"help": "control and reserved tokens: Llama 3 has 256"})
    max_characters: int = field(default=50_000_000, metadata={"help": "training text taken at most"})
    seed: int = field(default=0, metadata={"help": "of the mixture of sources"})


def main(args: TokenizerArguments) -> None:
    recipe.one_process()
    documents, report = load_records(args.datasets, "document", args.seed, characters, "characters")
    recipe.say(report)
    texts, total = [], 0
    for document in documents:
        if total >= args.max_characters:
            break
        texts.append(document.text)
        total += len(document.text)
    try:
        tokenizer = train_tokenizer(
            texts, args.vocab_size, style=args.style, num_special_tokens=args.num_special_tokens, show_progress=True
        )
    except ValueError as error:
        raise recipe.RecipeError(f"tokenizer: {error}") from error
    sample = texts[: max(1, len(texts) // 20)]
    ids = tokenizer(sample, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    characters_per_token = sum(map(len, sample)) / sum(map(len, ids))
    tokenizer.save_pretrained(args.output_dir)
    recipe.write_json(
        f"{args.output_dir}/metrics.json",
        {"vocab_size": len(tokenizer), "characters": total, "characters_per_token": round(characters_per_token, 3)},
    )
    recipe.say(f"{len(tokenizer)} tokens, {characters_per_token:.2f} characters per token")


if __name__ == "__main__":
    recipe.run(main, TokenizerArguments, doc=__doc__)

"""Whether a model trained to fill in the middle does: herd-nano on the sandbox's documents, trained with and without.

    python benchmarks/infilling.py --output_dir runs/infilling [--rates 0 0.9] [--seeds 0 1] [--gaps 400]

Of every held-out document one word is taken out, and sampled greedily. With the prefix alone a model is right where its
next word is the one that is missing; asked to fill in, it must give that word and end.
The tables are those of docs/infilling.md.
"""

import argparse
import random
import re
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_align.chat import encode_text
from llama_align.data import load_records, text_ids, tokens_of
from llama_align.sampling import Infiller, SamplingParams, make_engine

ROOT = Path(__file__).parents[1]
LONGEST = 16  # tokens of an answer


def recipe(script: str, folder: Path, **options) -> Path:
    """A recipe's output, made where it is not there whole: herd-nano's YAML with some options changed."""
    if not (folder / "metrics.json").exists():
        settings = yaml.safe_load((ROOT / f"recipes/herd-nano/{script}.yaml").read_text())
        config = folder.with_suffix(".yaml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings | options | {"output_dir": str(folder)}))
        command = [sys.executable, str(ROOT / f"recipes/{script}.py"), "--config", str(config)]
        with folder.with_suffix(".log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder


def gaps_of(texts: list[str], count: int, seed: int) -> list[tuple[str, str, str]]:
    """Prefix, word with the space before it, and suffix; the word stands neither first nor last."""
    draw, found = random.Random(seed), []
    for text in texts[:count]:
        words = list(re.finditer(r"(?<=\S) \S+(?= )", text))
        if words:
            word = draw.choice(words)
            found.append((text[: word.start()], word[0], text[word.end() :]))
    return found


def rates_of(folder: Path, gaps: list[tuple[str, str, str]]) -> dict[str, float]:
    """The share of gaps that a model fills, by how it is asked."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    params, around = SamplingParams(max_new_tokens=LONGEST, temperature=0.0), tokens_of(tokenizer)
    prompts = [[around.bos, *encode_text(tokenizer, prefix)] for prefix, _, _ in gaps]
    answers = make_engine("native", model).generate(prompts, params, {around.eos})
    said = [tokenizer.decode(answer.ids, skip_special_tokens=True).split() for (answer,) in answers]
    words = [word.strip() for _, word, _ in gaps]
    right = {"prefix alone": [texts[:1] == [word] for texts, word in zip(said, words, strict=True)]}
    for name, first in (("prefix first", False), ("suffix first", True)):
        filled = Infiller(model, tokenizer, "native")([(before, after) for before, _, after in gaps], params, first)
        right[name] = [one.text == word and one.finished for (one,), (_, word, _) in zip(filled, gaps, strict=True)]
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def bits_of(folder: Path, texts: list[str]) -> float:
    """Bits per byte of held-out documents, read from left to right."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    nats = 0.0
    with torch.no_grad():
        for ids in text_ids(texts, tokenizer):
            row = torch.tensor([ids])
            nats += float(model(row, labels=row).loss) * (len(ids) - 1)
    return nats / sum(len(text.encode()) for text in texts) / torch.log(torch.tensor(2.0)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/infilling"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.5, 0.9], help="shares that are split")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--gaps", type=int, default=400, help="held-out documents with a word taken out")
    parser.add_argument("--documents", type=int, default=12000, help="of the corpus")
    args = parser.parse_args()
    found = args.output_dir.absolute()
    sandbox = recipe("sandbox", found / "sandbox", documents=args.documents, documents_heldout=args.gaps)
    source, held = ([{"path": str(sandbox / f"{name}.jsonl")}] for name in ("corpus", "corpus_heldout"))
    tokenizer = recipe("tokenizer", found / "tokenizer", datasets=source)
    texts = [document.text for document in load_records(held, "document")[0]]
    print("| infilling | seed | prefix alone | prefix first | suffix first | bits per byte, left to right |")
    print("|---|---|---|---|---|---|")
    for rate in args.rates:
        for seed in args.seeds:
            options = {"datasets": source, "eval_datasets": held, "tokenizer": str(tokenizer), "infilling": rate}
            options |= {"packing": "bfd", "num_train_epochs": args.epochs, "seed": seed}
            run = recipe("pretrain", found / f"pretrain-{rate}-{seed}", **options)
            rates = rates_of(run, gaps_of(texts, args.gaps, seed=0))
            cells = [f"{100 * rates[name]:.1f}%" for name in ("prefix alone", "prefix first", "suffix first")]
            print(f"| {rate} | {seed} | {' | '.join(cells)} | {bits_of(run, texts):.4f} |", flush=True)


if __name__ == "__main__":
    main()

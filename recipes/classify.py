"""Distils a quality or topic classifier from labels: of a file, or of a chat checkpoint asked with a prompt (Llama 3).

python recipes/classify.py --config recipes/herd-nano-curated/classify.yaml

Writes light.safetensors (hashed n-grams, linear), heavy/ (LlamaHerd) where asked for, labels.jsonl, and metrics.json
with the agreement between held-out labels and each classifier. `recipes/curate.py` applies either by `quality: model`.
"""

import time
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import load_records, read_jsonl, write_jsonl
from llama_align.recipe import EngineSettings
from llama_align.runtime.identity import lines_digest
from llama_align.sampling import SamplingParams


@dataclass
class ClassifyArguments:
    output_dir: str = field(metadata={"help": "where the classifiers go"})
    labels: str | None = field(default=None, metadata={"help": "JSON lines with text and label"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "documents that a checkpoint labels"})
    model: str | None = field(default=None, metadata={"help": "chat checkpoint that labels `datasets`"})
    kind: str = field(default="general", metadata={"help": "prompt: general, code or reasoning"})
    max_new_tokens: int = field(default=4, metadata={"help": "of an answer"})
    engine: str = field(default="auto", metadata={"help": "auto, native, transformers or vllm"})
    heldout: float = field(default=0.2, metadata={"help": "share of the labels that agreement is measured on"})
    tokenizer: str | None = field(default=None, metadata={"help": "of the heavy classifier (none: only the light one)"})
    start: str | None = field(default=None, metadata={"help": "pretrained checkpoint the heavy one starts from"})
    size: str = field(default="herd-nano", metadata={"help": "preset of the heavy one, where it starts at random"})
    epochs: int = field(default=3, metadata={"help": "of the heavy one"})
    learning_rate: float = field(default=1e-3, metadata={"help": "of the heavy one"})
    seed: int = field(default=0, metadata={"help": "of training"})


def labelled(args: ClassifyArguments) -> list[dict]:
    """Rows of text and label. Raises RecipeError where there are none."""
    from llama_align.curation.labels import PROMPTS, ask_for_labels

    if bool(args.labels) == bool(args.model):
        raise recipe.RecipeError("labels, model: found both or neither, expected a file of labels or a checkpoint")
    if args.kind not in PROMPTS:
        raise recipe.RecipeError(f"kind: found {args.kind!r}, expected one of {', '.join(PROMPTS)}")
    if args.labels:
        rows = [row for _, row in read_jsonl(args.labels)]
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get("text"), str) or not isinstance(row.get("label"), str):
                raise recipe.RecipeError(f"{args.labels}, line {number}: expected text and label")
        return rows
    documents, report = load_records(args.datasets, "document", seed=args.seed)
    recipe.say(report)
    sampler = EngineSettings(args.engine).sampler(args.model)
    params = SamplingParams(1, args.max_new_tokens, temperature=0.0)
    texts = [document.text for document in documents]

    def ask(dialogs):
        return [drafts[0].text for drafts in sampler(dialogs, params, progress=True)]

    labels, silent = ask_for_labels(texts, args.kind, ask)
    recipe.say(f"{silent} of {len(texts)} documents without an answer of yes or no")
    return [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True) if label is not None]


def main(args: ClassifyArguments) -> None:
    from llama_align.curation.classify import Light
    from llama_align.curation.heavy import Heavy
    from llama_align.curation.labels import agreement

    recipe.one_process()
    if args.start:
        recipe.check_checkpoint(args.start)
    rows = labelled(args)
    held = [int(lines_digest([row["text"]])[:8], 16) < args.heldout * 2**32 for row in rows]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    test = [row for row, out in zip(rows, held, strict=True) if out]
    counts = {label: sum(row["label"] == label for row in rows) for label in sorted({row["label"] for row in rows})}
    if not train or not test or len({row["label"] for row in train}) < 2:
        raise recipe.RecipeError(f"labels: found {counts}, expected two classes, some of each held out")
    write_jsonl(f"{args.output_dir}/labels.jsonl", rows)
    texts, labels = [row["text"] for row in train], [row["label"] for row in train]
    classifiers = {"light": Light.train(texts, labels, args.seed)}
    classifiers["light"].save(f"{args.output_dir}/light.safetensors")
    if args.tokenizer or args.start:
        tokenizer = recipe.load_tokenizer(args.tokenizer or args.start)
        with TemporaryDirectory(prefix=".merged.", dir=args.output_dir) as folder:
            start = recipe.whole_weights(args.start, f"{folder}/start") if args.start else None
            options = {"epochs": args.epochs, "learning_rate": args.learning_rate, "seed": args.seed}
            classifiers["heavy"] = Heavy.train(texts, labels, tokenizer, start=start, size=args.size, **options)
        classifiers["heavy"].save(f"{args.output_dir}/heavy")
    metrics, speed = {"labels": counts, "held_out": len(test)}, {}
    for name, classifier in classifiers.items():
        started = time.perf_counter()
        found = classifier.labels([row["text"] for row in test])
        speed[name] = round(len(test) / (time.perf_counter() - started), 1)
        metrics[name] = {k: round(v, 4) for k, v in agreement([row["label"] for row in test], found).items()}
        recipe.say(f"{name}: {metrics[name]}, {speed[name]} documents a second")
    recipe.write_json(f"{args.output_dir}/metrics.json", metrics)
    recipe.write_json(f"{args.output_dir}/timings.json", {"documents_per_second": speed})


if __name__ == "__main__":
    recipe.run(main, ClassifyArguments, doc=__doc__)

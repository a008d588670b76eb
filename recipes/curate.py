"""Curates raw web pages and texts into a corpus for pretraining (Llama 3, section 3.1), with a ledger of every step.

python recipes/curate.py --config recipes/herd-nano-curated/curate.yaml

Needs the extra `curation` (pip install 'llama_align[curation]'). Killed at any moment, the same command goes on.
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

try:
    from llama_align.curation import options
    from llama_align.curation.executors import Executor
    from llama_align.curation.pipeline import Pipeline
    from llama_align.curation.reading import Source
except ImportError as error:  # --help and a plan's checks work without the extra
    missing, Executor = error, None
else:
    missing = None

OPTIONAL = ("kinds", "semantic")  # steps that are left out unless they are asked for


@dataclass
class CurateArguments:
    output_dir: str = field(metadata={"help": "where corpus-*, ledger.json, ledger.html and README.md go"})
    sources: list[dict] = field(default_factory=list, metadata={"help": "WARC, HTML, tar, JSON lines, Parquet, Hub"})
    title: str = field(default="Curated corpus", metadata={"help": "of the ledger and the data card"})
    extraction: dict | None = field(default=None, metadata={"help": "comments, timeout, memory"})
    urls: dict | None = field(default=None, metadata={"help": "newest versions and block lists"})
    language: dict | None = field(default=None, metadata={"help": "keep, thresholds, model, max_tokens"})
    kinds: dict | None = field(default=None, metadata={"help": "code and reasoning go their own way; {} for a rule"})
    heuristics: dict | None = field(default=None, metadata={"help": "bounds, repetition, dirty words, divergence"})
    pii: dict | None = field(default=None, metadata={"help": "personal data: replace or drop"})
    minhash: dict | None = field(default=None, metadata={"help": "near duplicates of documents"})
    lines: dict | None = field(default=None, metadata={"help": "lines that occur too often"})
    quality: dict | None = field(default=None, metadata={"help": "a light classifier's model and threshold"})
    semantic: dict | None = field(default=None, metadata={"help": "near meanings by clusters; {} for the defaults"})
    topics: dict | None = field(default=None, metadata={"help": "a light classifier's model, targets by class"})
    decontamination: dict | None = field(default=None, metadata={"help": "evaluation files, ngrams"})
    without: list[str] = field(default_factory=list, metadata={"help": "steps to leave out, by the names above"})
    output: dict | None = field(default=None, metadata={"help": "format (jsonl.gz, parquet), documents in a file"})
    executor: str = field(default="local", metadata={"help": "local, slurm or ray"})
    tasks: int = field(default=2, metadata={"help": "into how many a stage is cut; the corpus is the same for any"})
    workers: int = field(default=2, metadata={"help": "tasks at once, where local"})
    executor_options: dict | None = field(default=None, metadata={"help": "of datatrove's executor: partition, time"})


def main(args: CurateArguments) -> None:
    recipe.one_process()
    if missing is not None:
        raise recipe.RecipeError(
            f"curate: found no {missing.name!r}, expected the extra 'curation': pip install 'llama_align[curation]'"
        )
    if not args.sources:
        raise recipe.RecipeError("sources: found an empty list, expected at least one source")
    steps = {"urls": options.Urls, "language": options.Languages, "kinds": options.Kinds,
             "heuristics": options.Heuristics, "pii": options.Personal, "minhash": options.MinHash,
             "lines": options.Lines, "quality": options.Quality, "semantic": options.Semantic,
             "topics": options.Topics, "decontamination": options.Decontamination}  # fmt: skip
    if unknown := sorted(set(args.without) - set(steps)):
        raise recipe.RecipeError(f"without: found {unknown[0]!r}, expected some of {', '.join(steps)}")
    left_out = [*args.without, *(name for name in OPTIONAL if getattr(args, name) is None)]
    pipeline = Pipeline(
        output=args.output_dir,
        sources=[Source.parse(source) for source in args.sources],
        title=args.title,
        extraction=options.options(options.Extraction, args.extraction, "extraction"),
        form=options.options(options.Output, args.output, "output"),
        **{k: options.options(kind, k not in left_out and getattr(args, k), k) for k, kind in steps.items()},
    )
    metrics = pipeline.run(Executor(args.executor, args.tasks, args.workers, args.executor_options or {}))
    if metrics is None:
        recipe.say(f"submitted; the corpus will be in {args.output_dir}")
    else:
        recipe.say(f"{args.output_dir}: {metrics['documents']:,} documents, {metrics['tokens']:,} words and signs")


if __name__ == "__main__":
    recipe.run(main, CurateArguments, doc=__doc__)

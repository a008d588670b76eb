"""Refines post-training data between rounds by rules in order (Llama 3, section 4.2.3; Llama 2, section 3.1).

    python recipes/refine.py --config recipes/herd-nano/refine.yaml

Writes the records that are left, decisions.jsonl (what was found out about each record, and which rule dropped it),
metrics.json (what each rule did, with examples) and README.md, a data card. Killed at any moment, the same command goes
on: answers and scores are kept in shards. docs/refining.md has every rule.
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import load_records
from llama_align.recipe.engines import CachedEngineOptions
from llama_align.refine import rules
from llama_align.refine.apply import decisions, refine
from llama_align.refine.rows import KINDS, Row
from llama_align.refine.run import check_extra, check_models, leave, scores_of
from llama_align.runtime import processes


@dataclass
class RefineArguments(CachedEngineOptions):
    output_dir: str = field(metadata={"help": "where the records, decisions.jsonl, metrics.json and README.md go"})
    kind: str = field(default="demonstration", metadata={"help": "of records: demonstration, preference or sample"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of the records"})
    rules: list[dict] = field(
        default_factory=list,
        metadata={"help": "in order, each by its name under rule: clean, balance, topics, quality, ..."},
    )
    title: str = field(default="Refined data", metadata={"help": "of the data card"})
    objective: str = field(
        default="helpfulness", metadata={"help": "helpfulness or safety: what records are judged for that do not say"}
    )
    reward_models: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name, for quality, spread and worst_pairs; combined as in Llama 2"},
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    score_cache: str | None = field(
        default=None, metadata={"help": "folder of scores, may be shared by runs; None: scores/ in output_dir"}
    )
    samples: list[str] = field(
        default_factory=list, metadata={"help": "samples.jsonl with several answers to the prompts, for spread"}
    )
    model: str | None = field(default=None, metadata={"help": "chat checkpoint asked for points, intentions, topics"})
    classifier: str | None = field(default=None, metadata={"help": "of recipes/classify.py, for topics"})
    embedder: str | None = field(
        default=None, metadata={"help": "checkpoint whose states distinct compares; None: weighted words"}
    )
    too_long: str = field(default="error", metadata={"help": "what no model has room for: error, or drop its score"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest answer of the checkpoint that is asked"})
    prompts_per_shard: int = field(default=512, metadata={"help": "questions or scores between two writes"})
    seed: int = field(default=0, metadata={"help": "of mixtures of sources, and of the rule chance"})


def main(args: RefineArguments) -> None:
    group = processes.join()
    if args.kind not in KINDS:
        raise recipe.RecipeError(f"kind: found {args.kind!r}, expected one of {', '.join(KINDS)}")
    if args.objective not in ("helpfulness", "safety"):
        raise recipe.RecipeError(f"objective: found {args.objective!r}, expected helpfulness or safety")
    listed = rules.parse(args.rules)
    names = ("reward_models", "samples", "model", "classifier", "embedder")
    rules.check(listed, args.kind, {name: getattr(args, name) for name in names})
    check_extra(any(name == "distinct" for name, _ in listed) or bool(args.classifier))
    check_models(args)
    if not args.datasets:
        raise recipe.RecipeError(f"datasets: found none, expected sources of the kind {args.kind}")
    with group.quiet():
        records, report = load_records(args.datasets, args.kind, seed=args.seed)
        recipe.say(report)
    rows = [Row(number, record) for number, record in enumerate(records)]
    kept, tallies = refine(rows, listed, scores_of(args, group), args.embedder, args.seed)
    if not group.is_main:
        return
    leave(args, args.kind, kept, decisions(rows, tallies), tallies, len(rows))


if __name__ == "__main__":
    recipe.run(main, RefineArguments, doc=__doc__)

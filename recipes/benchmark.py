"""Measures checkpoints on benchmarks through lm-evaluation-harness, as the tables of Llama 1 and 2 have them.

    python recipes/benchmark.py --config recipes/herd-nano-real/benchmark.yaml
    accelerate launch recipes/benchmark.py --config recipes/herd-nano-real/benchmark.yaml

A checkpoint that was measured with the same settings before is not measured again. docs/benchmarks.md has the tasks.
"""

from dataclasses import dataclass, field
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.benchmarks.catalogue import Settings
from llama_align.evaluation.measure import check_rows
from llama_align.recipe.engines import EngineOptions
from llama_align.runtime import processes
from llama_align.runtime.progress import parts


@dataclass
class BenchmarkArguments(EngineOptions):
    output_dir: str = field(metadata={"help": "where <name>.json, samples_<name>.jsonl, metrics.json, table.md go"})
    models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "checkpoints or adapters by the name of their row, in order"}
    )
    tasks: list[str] = field(
        default_factory=lambda: ["commonsense"],
        metadata={"help": "groups and tasks of benchmarks/tasks.yaml, and tasks of the harness by its own names"},
    )
    hub: bool = field(default=False, metadata={"help": "groups with those tasks of the harness that read the Hub"})
    include_path: str | None = field(default=None, metadata={"help": "folder with more YAMLs of the harness's kind"})
    limit: int | None = field(default=None, metadata={"help": "items of each part of a task, the first ones"})
    chat: bool = field(default=False, metadata={"help": "items are dialogs, few-shot examples earlier turns"})
    run_code: bool = field(
        default=False, metadata={"help": "run programs that the model wrote, shut in by Linux (herd_humaneval)"}
    )
    programs: int = field(default=1, metadata={"help": "programs per item: pass@1 and pass@programs"})
    trained_on: list[str] = field(
        default_factory=list, metadata={"help": "training files, whose 13-grams are looked for among the items"}
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "bound on written answers, below the tasks'"})
    seed: int = field(default=0, metadata={"help": "of sampling"})


def main(args: BenchmarkArguments) -> None:
    from llama_align.benchmarks.measure import Benchmarks  # takes the extra `benchmarks`

    group = processes.join()
    check_rows(args.models, None)
    for path in args.models.values():
        recipe.check_checkpoint(path, "causal")  # before the first of them is measured
    settings = Settings(args.programs, args.max_new_tokens, args.run_code, args.hub, args.include_path)
    engine = args.engine_settings()
    how = {"limit": args.limit, "chat": args.chat, "trained_on": args.trained_on, "seed": args.seed}
    benchmarks = Benchmarks(Path(args.output_dir), args.tasks, settings, engine, group, **how)
    for name in parts(args.models):
        path = args.models[name]
        if group.heard(benchmarks.done(name, path)):
            recipe.say(f"{name}: measured before")
            continue
        benchmarks.measure(name, path)
    if group.is_main:
        benchmarks.summary(list(args.models))


if __name__ == "__main__":
    recipe.run(main, BenchmarkArguments, doc=__doc__)

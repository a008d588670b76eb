"""Runs one arm of a failure through the recipe's own code, and reads its curves."""

import hashlib
import json
from pathlib import Path
from typing import Any

import llama_align
from llama_align.notebook.jobs import Job
from llama_align.notebook.results import Result
from llama_align.recipe.quiet import quiet

from .kinds import Arm, Curves, Failure, Start

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "herd-nano"


def run(failure: Failure, arm: Arm, start: Start, seed: int, folder: Path) -> Curves:
    """What the trainer logged, and what the probes found in its start and its checkpoints."""
    if failure.measure:
        return failure.measure(failure, arm, start, seed, folder)
    prepared = arm.prepare(start, folder, seed) if arm.prepare else {}
    options = {**failure.common, **arm.options, **prepared, "seed": seed}
    if failure.every:
        options |= {"save_strategy": "steps", "save_steps": failure.every, "save_only_model": True}
    result = trained(failure.config, options, start, folder, arm.wrong)
    curves: Curves = {}
    for row in result.log:
        for key, value in row.items():
            if isinstance(value, int | float) and key not in ("step", "epoch"):
                curves.setdefault(key, []).append([row["step"], value])
    # a reward model begins with a head of random weights, which is none yet
    begin = None if failure.config.startswith("reward") else start.fill(options.get("model_name_or_path"))
    for step, checkpoint in checkpoints(result.folder, begin):
        for probe in failure.probes if arm.probes is None else arm.probes:
            for key, value in probe(checkpoint, start).items():
                curves.setdefault(key, []).append([step, value])
    return curves


def trained(config: str, options: dict[str, Any], start: Start, folder: Path, wrong=None) -> Result:
    """A recipe's run with these options, unless the folder has it: several failures share their healthy one.

    Args:
        wrong: what is done to the trainer before it trains.
    """
    options = start.fill(options)
    yaml = (RECIPES / config).read_text("utf-8")
    text = json.dumps([yaml, options, wrong.__name__ if wrong else None], sort_keys=True)
    place = folder / f"{Path(config).stem}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if not (place / "metrics.json").exists():
        job: Job = llama_align.load(RECIPES / config, **options, output_dir=str(place))
        with quiet(place, place.name):
            if wrong:
                wrong(job.trainer)
            job.run()
    return Result(place)


def checkpoints(run: Path, begin: str | None) -> list[tuple[int, Path]]:
    """Where training started, at step 0, and what it saved, in order."""
    found = sorted((int(path.name[11:]), path) for path in run.glob("checkpoint-*"))
    return ([(0, Path(begin))] if begin else []) + found

"""A made-up run with every file the report reads, and hostile text in most of them."""

import json
import math
import random
from pathlib import Path

import pytest

from llama_align.metrics.functional import (
    answer_endings,
    exact_score,
    paired_difference,
    refusal_rate,
    reward_accuracy,
    win_rate,
)

HOSTILE = "</style></svg><script>alert('x')</script><img src=x onerror=alert(1)> $x^2$ &amp; \"quoted\""
ROWS = ("base", "sft", "rs-1", "ppo <b>")
FAMILIES = ("copy", "fact", "sum <i>")
GRADES = ("significantly_better", "better", "slightly_better", "negligibly_better")


def make_run(root: Path, prompts: int = 240) -> Path:
    """Writes the run and returns its directory; the same call always writes the same bytes."""
    rng = random.Random(7)
    steps = {
        "sft": ("sft", 74.25),
        "reward-helpfulness": ("reward", 31.0),
        "rejection": ("rejection_sampling", 12.0),
        "ppo": ("ppo", 4210.5),
        "evaluate": ("evaluate", 12.125),
    }
    rows = [
        {"name": name, "recipe": recipe, "directory": f"{name}-0a1b", "seconds": seconds, "status": "finished"}
        for name, (recipe, seconds) in steps.items()
    ]
    rows.append({"name": HOSTILE, "recipe": "average", "directory": "never-made", "seconds": None, "status": "waiting"})
    _json(root / "run.json", {"name": f"nano {HOSTILE}", "seed": 17, "steps": rows})
    for row in rows[:-1]:
        folder = root / row["directory"]
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"note: {HOSTILE}\noutput_dir: {folder}\nlearning_rate: 2.0e-05\n", "utf-8")
    _logs(root, rng)
    _reward_model(root / "reward-helpfulness-0a1b", rng)
    _evaluation(root / "evaluate-0a1b", rng, prompts)
    _rejection_sampling(root / "rejection-0a1b")
    return root


def _rejection_sampling(directory: Path) -> None:
    curves = [
        {
            "checkpoint": f"sft {HOSTILE}",
            "temperature": heat,
            "prompts": 100,
            "k": [1, 2, 3, 4],
            "best": [heat * k for k in range(4)],
            "median": [heat] * 4,
            "heldout": {"heldout/exact_judge": [0.5, 0.6, 0.7, 0.6]},
        }
        for heat in (0.5, 0.9)
    ]
    search = {"curves": [{k: v for k, v in curve.items() if k != "heldout"} for curve in curves]}
    _json(directory / "metrics.json", {"kept": 3, "best_of_k": curves[:1], "temperature_search": search})


def _logs(root: Path, rng: random.Random) -> None:
    sft = [
        {"step": i, "loss": 3 * math.exp(-i / 90) + 0.6 + rng.gauss(0, 0.05), "learning_rate": 2e-5 * (1 - i / 900)}
        for i in range(1, 900)
    ]
    sft[10]["loss"] = None  # a loss that was no number, as results.finish writes it
    sft[100:100] = [{"step": 100, "eval_loss": 1.9}]
    sft += [{"step": 899, "eval_loss": 0.8}, {"step": 899, "train_runtime": 70.0}]
    _lines(root / "sft-0a1b" / "log.jsonl", sft)
    ppo = [
        {
            "step": i,
            "loss": rng.gauss(0, 0.1),
            "reward": 1.5 * (1 - math.exp(-i / 25)) + rng.gauss(0, 0.06),
            "kl": 0.11 * i**0.8 + rng.gauss(0, 0.04),
            "entropy": 2 - i / 120,
            "rewards/safety": i / 100,
            "rewards/helpfulness": 1.0,
            "objective/new": 1.0,
        }
        for i in range(1, 101)
    ]
    _lines(root / "ppo-0a1b" / "log.jsonl", ppo)


def _reward_model(directory: Path, rng: random.Random) -> None:
    grades = [GRADES[i % 4] for i in range(400)]
    chosen = [rng.gauss(1.6 - 0.45 * GRADES.index(grade), 1) for grade in grades]
    result = reward_accuracy(
        chosen,
        [rng.gauss(0, 1) for _ in grades],
        grades,
        [rng.randrange(5, 40) for _ in grades],
        [rng.randrange(5, 36) for _ in grades],
    )
    _json(directory / "metrics.json", result | {"objective": "helpfulness"})
    _lines(directory / "log.jsonl", [{"step": i, "loss": 0.7 - i / 200, "accuracy": 0.5 + i / 90} for i in range(20)])


def _evaluation(directory: Path, rng: random.Random, prompts: int) -> None:
    rows, items = [], {}
    for i, name in enumerate(ROWS):
        families = [FAMILIES[j % 3] for j in range(prompts)]
        items[name] = [int(rng.random() < 0.3 + 0.17 * i) for _ in range(prompts)]
        unsafe = [int(j % 4 == 0) for j in range(prompts)]
        refused = [int(rng.random() < (0.2 + 0.25 * i if u else 0.02 * i)) for u in unsafe]
        rewards = {
            objective: [rng.gauss(shift + 0.5 * i, 1) for _ in range(prompts)]
            for objective, shift in (("helpfulness", 0), ("safety", 0.5))
        }
        row = {
            "row": name,
            "model": f"steps/{name}",
            "n": prompts,
            "score": exact_score(items[name], families),
            "safety": refusal_rate(unsafe, refused, [u * (1 - r) for u, r in zip(unsafe, refused, strict=True)]),
            "perplexity": {"value": 9.5 - i, "tokens": 1000},
            "length": {"mean_tokens": 14.0 + i, "finished": 0.99},
            "endings": answer_endings(["so so so so"] * i + ["so"] * 9, [0] * i + [1] * 9),
        }
        if i:
            row["win_rate"] = {"against": "sft", **win_rate([0.1 * i] * 30, [0.2] * 30)}
        rows.append(row)
        _json(directory / f"{name}.json", row | {"score": row["score"] | {"items": items[name]}, "rewards": rewards})
        _lines(directory / f"samples_{name}.jsonl", [_sample(j, name, families[j], rng) for j in range(40)])
    # the pair from "rs-1" to the last row is left for the report to compute
    differences = [
        {"from": a, "to": b, **paired_difference(items[a], items[b])}
        for a, b in (("base", "sft"), ("sft", "rs-1"), ("sft", "ppo <b>"))
    ]
    _json(directory / "metrics.json", {"rows": rows, "differences": differences})


def _sample(j: int, row: str, family: str, rng: random.Random) -> dict:
    messages = [
        {"role": "user", "content": f"Prompt {j}: what is the colour of the harbour lamp? {HOSTILE * (j == 0)}"}
    ]
    if j % 5 == 0:
        messages.insert(0, {"role": "system", "content": "Answer in one word."})
    text = f"It is amber, says {row}. {HOSTILE * (j == 0)}" + " The lamp is lit at dusk." * rng.randrange(0, 9)
    return {
        "prompt": messages,
        "completion": text,
        "task": {"family": family},
        "helpful": rng.random() < 0.7,
        "violation": j % 7 == 3,
        "false_refusal": j % 11 == 5,
    }


def _json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), "utf-8")


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return make_run(tmp_path / "run")

"""Stages in several processes: the same rows, and a kill within a ramp changes nothing."""

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .comparing import differences

TOLERANCE = {"loss": 2e-6, "grad_norm": 1e-5, "weights": 1e-5}
# steps 1 and 2 are of 8 rows of 32, 3 and 4 of 8 of 64, 5 and 6 of 16 of 64
STAGES = [
    {"tokens": 512, "context": 32, "batch": 256, "mixture": {"documents": 1, "others": 1}, "window": 16},
    {"tokens": 1024, "context": 64, "batch": 512, "mixture": {"documents": 3, "others": 1}, "rope_theta": 5.0e5},
    {"tokens": 2048, "context": 64, "batch": 1024, "mixture": {"others": 1}, "schedule": {"type": "linear"}},
]
# the other two by LLAMA_ALIGN_ALL_MODES=1: what they share out is shared out by these as well
MODES = ["cpu_zero3", "fsdp2", *(["cpu_ddp", "cpu_zero2"] if os.environ.get("LLAMA_ALIGN_ALL_MODES") else [])]
OPTIONS = {
    "stages": STAGES,
    "gradient_accumulation_steps": 1,
    "max_steps": -1,
    "weight_average": "ema",
    "weight_average_decay": 0.5,
}


def sources(workshop: Path) -> list[dict]:
    path = str(workshop / "documents.jsonl")
    return [{"path": path, "repeat": True}, {"path": path, "name": "others", "limit": 90, "repeat": True}]


@pytest.fixture
def staged(launch, workshop):
    def run(config: str, **changes):
        options = {"datasets": sources(workshop), "tokens_dir": str(workshop / "tokens")}
        return launch("pretrain", config, **OPTIONS | options | changes)

    return run


@pytest.mark.parametrize("config", MODES)
def test_two_processes_train_the_stages_of_one_and_go_on_from_within(staged, config):
    one, two = staged("cpu_single"), staged(config)
    found = differences(one, two)
    assert all(found[key] <= limit for key, limit in TOLERANCE.items()), found
    averages = [load(run.path / "average") for run in (one, two)]
    assert max((averages[0][name] - averages[1][name]).abs().max().item() for name in averages[0]) < 1e-5
    assert max((averages[0][name] - one.weights[name]).abs().max().item() for name in averages[0]) > 1e-4
    keys = ("loss/documents", "loss/others")
    for a, b in zip(one.rows, two.rows, strict=True):
        assert all(a.get(key, 0) == pytest.approx(b.get(key, 0), rel=1e-5) for key in keys)
    measured = [run.metrics["average"]["eval_loss"] for run in (one, two)]
    assert measured[1] == pytest.approx(measured[0], rel=1e-5)
    assert abs(measured[0] - one.metrics["eval_loss"]) > 1e-3
    assert one.metrics["sources"] == two.metrics["sources"]
    resumed = staged(config, continues=two)
    assert (resumed.path / "checkpoint-6").is_dir()
    assert differences(two, resumed) == {"loss": 0.0, "grad_norm": 0.0, "weights": 0.0}
    again = load(resumed.path / "average")
    assert all(again[name].equal(averages[1][name]) for name in again)


def load(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")

"""Gates in several processes: all of them decide as one process does, and a run goes on from before one."""

import json
import os

import pytest
from transformers import AutoTokenizer

from tests.pretraining.retriever import retriever

from .comparing import differences
from .test_stages import OPTIONS, TOLERANCE, sources

# 31 documents and 5 probes in a row: what two processes do not share out evenly. The model made by hand misses some
# keys of two digits: with this seed three of the first five, and none of the five after the portion
GATE = {"needles": 5, "lengths": 1, "depths": 5, "digits": 2, "documents": 31, "margin": 100.0, "portions": 1}
SEED = 15
STAGES = [
    {"tokens": 256, "context": 32, "batch": 128, "mixture": {"documents": 1}},
    {"name": "long", "tokens": 512, "context": 128, "batch": 256, "mixture": {"documents": 1}, "rope_theta": 2.0e6},
    {"tokens": 256, "context": 128, "batch": 256, "mixture": {"others": 1}},
]
MODES = ["cpu_zero3", "fsdp2", *(["cpu_ddp", "cpu_zero2"] if os.environ.get("LLAMA_ALIGN_ALL_MODES") else [])]


@pytest.fixture(scope="module")
def found(workshop) -> str:
    """A checkpoint that finds keys."""
    tokenizer = AutoTokenizer.from_pretrained(workshop / "base")
    retriever(len(tokenizer), 1e6, tokenizer.pad_token_id).save_pretrained(workshop / "retriever")
    tokenizer.save_pretrained(workshop / "retriever")
    return str(workshop / "retriever")


@pytest.fixture
def gated(launch, workshop, found):
    def run(config: str, **changes):
        options = {"datasets": sources(workshop), "tokens_dir": str(workshop / "tokens"), "model_name_or_path": found}
        options |= {"stages": [STAGES[0], STAGES[1] | {"gate": GATE}, STAGES[2]], "data_seed": SEED}
        return launch("pretrain", config, **OPTIONS | options | {"learning_rate": 1e-9} | changes)

    return run


@pytest.mark.parametrize("config", MODES)
def test_two_processes_decide_as_one_and_go_on_from_before_a_gate(gated, config):
    one, two = gated("cpu_single"), gated(config)
    apart = differences(one, two)
    assert all(apart[key] <= limit for key, limit in TOLERANCE.items()), apart
    results = [json.loads((run.path / "gates.json").read_text())["results"] for run in (one, two)]
    for a, b in zip(*results, strict=True):
        assert a["needles"] == b["needles"]
        assert a["short_context"]["differences"] == pytest.approx(b["short_context"]["differences"], abs=1e-5)
    assert [(result["step"], result["portion"], result["passed"]) for result in results[0]] == [
        (4, 0, False),
        (6, 1, True),
    ]
    assert len(two.rows) == 7
    resumed = gated(config, continues=two)  # from step 3, within the stage
    assert differences(two, resumed) == {"loss": 0.0, "grad_norm": 0.0, "weights": 0.0}
    again = json.loads((resumed.path / "gates.json").read_text())["results"]
    assert again == results[1]

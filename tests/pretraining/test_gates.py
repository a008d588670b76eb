"""Gates between stages: what they measure, what they decide, and that a run that is killed decides the same."""

import json
import math
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from llama_align import recipe
from llama_align.data import tokens_of
from llama_align.pretraining import Gates, Plan, Rates, Source, Stage, StageError, StepRows, Tokens
from llama_align.pretraining.gate import Gate
from llama_align.pretraining.needles import Haystack
from llama_align.recipe.staging import gated
from llama_align.trainers import PretrainConfig, PretrainTrainer
from tests.conftest import made_up_text

from .conftest import PLAIN
from .retriever import retriever
from .test_staged import Killed, files_of, killed_after

GATE = {"needles": 12, "lengths": 2, "depths": 3, "digits": 1, "documents": 30, "margin": 0.5, "portions": 1}


def stages(base: float = 1e6, **gate) -> list[dict]:
    return [
        {"tokens": 256, "context": 64, "batch": 128},
        {"name": "long", "tokens": 512, "context": 256, "batch": 256, "rope_theta": base, "gate": GATE | gate},
        {"tokens": 256, "context": 256, "batch": 256},
    ]


def parsed(rows: list[dict]) -> list[Stage]:
    return [Stage.parse(row, number, None) for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def text(llama3_tokenizer):
    """`text(name, seed)` -> tokens of made-up documents of 80 to 100 words."""

    def make(name: str, seed: int) -> Tokens:
        made = [made_up_text(80 + n % 20, 1000 * seed + n) for n in range(40)]
        ids = [[*llama3_tokenizer(one, add_special_tokens=False)["input_ids"], 1] for one in made]
        return Tokens(name, [pa.array(ids, pa.list_(pa.int32()))])

    return make


@pytest.fixture
def hay(text, tokenizer):
    return Haystack([text("a", 1), text("b", 2)], tokenizer, 5)


def places(ids: list[int], part: list[int]) -> list[int]:
    return [at for at in range(len(ids)) if ids[at : at + len(part)] == part]


def test_a_probe_says_its_key_once_at_its_depth_and_asks_at_the_end(hay, tokenizer):
    keys = set()
    for depth in (0, 0.3, 1):
        for length in (100, 256):
            probe = hay.probe(length, depth, "one")
            assert len(probe.ids) == probe.length == length
            assert probe == hay.probe(length, depth, "one")
            said = tokenizer.decode(probe.ids)
            question, _, answer = said.rpartition(" is ")
            sentence = question[question.rindex(" The key of ") :] + f" is {answer}."
            assert tokenizer.decode(probe.ids[-probe.answer :]) == f" {answer}"
            assert len(answer) == 5
            keys.add(sentence)
            needle = tokenizer(sentence, add_special_tokens=False)["input_ids"]
            (place,) = places(probe.ids, needle)
            assert abs((place - 1) / (length - 2 * len(needle)) - depth) < 1 / 16 + 0.02
            gone = hay.probe(length, depth, "one", taken_out=True)
            assert gone.depth is None
            assert len(gone.ids) == length
            asked = len(needle) - 1  # which has a full stop beside the question and its answer
            assert gone.ids[-asked:] == probe.ids[-asked:]
            assert not places(gone.ids, needle)
    assert len({hay.probe(100, 0.5, str(i)).ids[-3] for i in range(20)} | keys) > 3, "keys are fresh"


def test_a_document_asks_for_every_key_that_it_says(hay, tokenizer):
    counts, around = set(), tokens_of(tokenizer)
    for number in range(16):
        ids = hay.document(256, 3, str(number))
        assert len(ids) == 256
        assert ids[0] == around.bos
        assert around.eos not in ids  # behind the last answer it would stand where a probe's last digit is
        said = tokenizer.decode(ids[1:])
        names = [part.split(" is ")[0] for part in said.split(" The key of ")[1:]]
        assert all(names.count(name) == 2 for name in names)
        counts.add(len(names) // 2)
    assert counts == {1, 2, 3}


def test_losses_have_recovered_where_a_one_sided_interval_ends_within_the_margin():
    draw = np.random.default_rng(0)
    before, change = draw.normal(3, 1, 50), draw.normal(0.01, 0.02, 50)
    now = (before + change).tolist()
    found = Gate(margin=0.02, confidence=0.95).recovered(before.tolist(), now)
    mean, error = change.mean(), change.std(ddof=1) / math.sqrt(50)
    assert found["difference"] == pytest.approx(mean)
    assert found["bound"] == pytest.approx(mean + 1.67655 * error, rel=1e-5)  # t of 49 degrees at 0.95, from a table
    assert found["differences"] == pytest.approx(change.tolist())
    assert (found["before"], found["now"]) == (pytest.approx(before.mean()), pytest.approx(np.mean(now)))
    for margin in (found["bound"] * 0.999, found["bound"] * 1.001):
        assert Gate(margin=margin).recovered(before.tolist(), now)["passed"] == (margin > found["bound"])
    broken = Gate().recovered([1.0, 2.0], [math.nan, 2.0])
    assert (broken["passed"], broken["bound"], broken["differences"]) == (False, None, [None, 0.0])


def test_gates_that_make_no_sense_are_refused(text, tokenizer):
    cases = {
        "'margin': found 0": {"margin": 0},
        "'confidence': found 1": {"confidence": 1},
        "'portions': found -1": {"portions": -1},
        "'documents': found 3 (int), expected a whole number of at least 30": {"documents": 3},
        "'needles': found 1.5": {"needles": 1.5},
        "unknown key 'needle'": {"needle": 1},
    }
    for match, gate in cases.items():
        with pytest.raises(StageError, match=rf"stages\[1\], key 'gate'.*{re.escape(match)}"):
            parsed(stages(**gate))
    source = [Source(text("a", 1), most_epochs=math.inf)]
    for match, held, rows in (
        ("found no eval_datasets", [], stages()),
        ("found no short, expected the context", [text("h", 3)], stages()[1:]),
        ("found 0 held-out documents of 5000 tokens", [text("h", 3)], stages(short=5000)),
        ("found room for -", [text("h", 3)], stages(lengths=16)),
        ("'name': found 'long' twice", [text("h", 3)], [stages()[0], stages()[1], stages()[1]]),
    ):
        with pytest.raises(ValueError, match=match):
            Gates(Plan(source, parsed(rows), 0), held, tokenizer)
    rows = stages()
    rows[1]["schedule"] = {"type": "linear"}
    plan = Plan(source, parsed(rows), 0)
    with pytest.raises(StageError, match=r"stages\[1\], key 'gate': found a rate of 0 at the stage's end"):
        Rates(plan.time, 1e-3, "constant", {}, 0)
    few = [Source(text("a", 1), most_epochs=1024 / text("a", 1).tokens + 0.02)]
    Plan(few, parsed(stages(portions=0)), 0)
    with pytest.raises(StageError, match="epochs, expected at most"):
        Plan(few, parsed(stages(portions=3)), 0)


def test_a_portion_changes_no_step_before_it_and_goes_on_at_the_rate_it_finds(text):
    source = [Source(text("a", 1), most_epochs=math.inf), Source(text("b", 2), most_epochs=math.inf)]
    rows = [row | {"mixture": {"a": 1, "b": 2}} for row in stages(portions=2, portion=256)]
    plan = Plan(source, parsed(rows), 0)
    rates = Rates(plan.time, 1e-3, "linear", {}, 0)
    assert (plan.steps, plan.time.most_steps) == (2 + 2 + 1, 2 + 2 + 1 + 2)
    before = [(plan.rows(step), plan.stage(step).name, rates.factor(step)) for step in range(5)]
    plan.take(2)
    assert plan.steps == 6
    after = [(plan.rows(step), plan.stage(step).name, rates.factor(step)) for step in range(6)]
    assert after[:4] == before[:4]
    assert [name for _, name, _ in after] == ["stage 1", "stage 1", "long", "long", "long, portion 1", "stage 3"]
    assert after[4][2] == before[4][2] == after[5][2], "the run's schedule goes on where the stage left it"
    tokens = plan.epochs()
    assert sum(row["tokens"] for row in tokens.values()) == 256 + 512 + 256 + 256
    assert "long, portion 1" in str(plan)
    assert "portion 2" not in str(plan)


@pytest.fixture
def trainer_of(text, tokenizer, tmp_path):
    def make(rows: list[dict], base: float = 1e6, **changes) -> PretrainTrainer:
        model = retriever(len(tokenizer), base, tokenizer.pad_token_id)
        plan = Plan([Source(text("a", 1), most_epochs=math.inf)], parsed(rows), 0)
        options = PLAIN | {
            "output_dir": str(tmp_path / "out"),
            "learning_rate": 1e-9,  # what was made by hand is not to be unlearned
            "warmup_steps": 0,
            "lr_scheduler_type": "linear",
            "lr_scheduler_kwargs": {},
            "logging_steps": 1,
        }
        args = PretrainConfig(**options | changes)
        rates = Rates(plan.time, 1e-9, "linear", {}, 0)
        rotary = [{"rope_type": "default", "rope_theta": base}]
        for stage in plan.stages[1:]:
            rotary.append(rotary[-1] | ({"rope_theta": stage.rope_theta} if stage.rope_theta else {}))
        extra = {"plan": plan, "rate": rates.factor, "rotary": rotary}
        extra |= gated(plan, [Source(text("h", 3))], tokenizer, args.output_dir)
        return PretrainTrainer(model, args=args, train_dataset=StepRows(plan, 1, len(tokenizer)), **extra)

    return make


def run(trainer: PretrainTrainer) -> None:
    recipe.train(trainer)
    recipe.finish(trainer, {"sources": trainer.plan.epochs(), "gates": trainer.gates.summary()})


def test_a_gate_opens_where_the_base_is_raised_and_stays_shut_where_it_is_not(trainer_of, tmp_path):
    """And nothing is found where nothing was said."""
    run(trainer_of(stages(), base=500.0))
    gate = json.loads((tmp_path / "out" / "metrics.json").read_text())["gates"]["long"]
    assert gate["passed"]
    assert gate["needles"]["taken_out"] == {"probes": 6, "hits": 0}
    assert (gate["needles"]["probes"], gate["needles"]["missed"], gate["portion"]) == (12, 0, 0)
    assert [(cell["length"], cell["depth"]) for cell in gate["needles"]["grid"]][2:4] == [(128, 1.0), (256, 0.0)]
    assert gate["short_context"]["tokens"] == 64
    assert len(gate["short_context"]["differences"]) == 30
    assert "<svg" in (tmp_path / "out" / "needles_1.svg").read_text()

    trainer = trainer_of(stages(base=500.0), base=500.0, output_dir=str(tmp_path / "shut"))
    with pytest.raises(recipe.GateShut, match=r"stages\[1\], long: its gate is shut behind 1,280 tokens and 1 further"):
        run(trainer)
    assert trainer.state.global_step == 2 + 2 + 2, "a further portion was trained on"
    results = json.loads((tmp_path / "shut" / "gates.json").read_text())["results"]
    assert [(result["portion"], result["step"], result["passed"]) for result in results] == [
        (0, 4, False),
        (1, 6, False),
    ]
    near, far = (
        sum(cell["hits"] for cell in results[0]["needles"]["grid"] if cell["depth"] == depth) for depth in (1.0, 0.0)
    )
    assert near > far, "what is far turns away"
    assert results[0]["needles"]["taken_out"]["hits"] == 0
    # the same again says the same without a step
    again = trainer_of(stages(base=500.0), 500.0, output_dir=str(tmp_path / "shut"), resume_from_checkpoint="last")
    with pytest.raises(recipe.GateShut):
        run(again)
    assert again.state.global_step == 6


class SecondTime(Gates):
    """Stays shut behind the stage and opens behind its first portion, whatever the model."""

    def judge(self, step, number, now, probes, hits):
        hits = [probe.depth is not None and self.plan.stages[number].portion > 0 for probe in probes]
        return super().judge(step, number, now, probes, hits)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_killed_around_a_gate_ends_as_the_undisturbed_one(trainer_of, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("llama_align.recipe.staging.Gates", SecondTime)
    out, rows = tmp_path / "out", stages(portions=2, margin=100.0)
    options = {"learning_rate": 1e-3, "dataloader_num_workers": workers}

    def seen(trainer: PretrainTrainer) -> list:
        plain, found = trainer.training_step, []

        def step(model, inputs, *args):
            found.append(inputs["input_ids"].clone())
            return plain(model, inputs, *args)

        trainer.training_step = step
        run(trainer)
        return found

    trainer = trainer_of(rows, **options)
    batches = seen(trainer)
    plan = trainer.plan
    assert len(batches) == plan.steps == 2 + 2 + 2 + 1
    assert [plan.stage(step).name for step in (4, 6)] == ["long, portion 1", "stage 3"]
    for step, ids in enumerate(batches):
        assert torch.equal(ids, torch.as_tensor(trainer.train_dataset[step]["input_ids"])), f"step {step}"
    whole = files_of(out)
    log = [json.loads(line) for line in whole["log.jsonl"].splitlines()]
    assert [row["step"] for row in log if "event" in row] == [4, 6]
    rates = {row["step"]: row["learning_rate"] for row in log if "loss" in row}
    assert rates[5] == rates[6] == rates[7], "the portion's, and then the run's where the stage left it"
    assert json.loads(whole["metrics.json"])["gates"]["long"]["portion"] == 1
    if workers:
        return
    shutil.move(out, tmp_path / "whole")
    for step in (2, 3):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", out / f"checkpoint-{step}")
        with pytest.raises(Killed):
            run(killed_after(trainer_of(rows, **options, resume_from_checkpoint="last"), 1))
        run(trainer_of(rows, **options, resume_from_checkpoint="last"))
        found = files_of(out)
        assert [name for name in whole | found if found.get(name) != whole.get(name)] == [], f"from step {step}"

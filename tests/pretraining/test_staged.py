"""A plan of stages under the trainer: kills, sizes of steps, rotary bases, spikes, averages, losses by source."""

import json
import math
import random
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llama_align import LlamaHerdForCausalLM, recipe
from llama_align.pretraining import Plan, Rates, Source, SourceRows, Stage, StepRows
from llama_align.trainers import PretrainConfig, PretrainTrainer
from llama_align.trainers.averages import WeightAverage
from llama_align.trainers.watch import Spikes

from .conftest import PLAIN

STAGES = (
    {"tokens": 1536, "context": 32, "batch": 256, "mixture": {"a": 0.75, "b": 0.25}, "window": 16},
    {"tokens": 1536, "context": 64, "batch": 512, "mixture": {"a": 0.5, "b": 0.5}, "rope_theta": 5e5},
    {"tokens": 1536, "context": 128, "batch": 768, "mixture": {"b": 1}, "schedule": {"type": "linear"}},
)
STEPS = 6 + 3 + 2


@pytest.fixture
def trainer_of(source_of, tiny_config, tmp_path):
    def make(stages=STAGES, source=source_of, **changes) -> PretrainTrainer:
        torch.manual_seed(0)
        model = LlamaHerdForCausalLM(tiny_config(vocab_size=500))
        parsed = [Stage.parse(stage, number, None) for number, stage in enumerate(stages)]
        sources = [source(name, 495, most_epochs=math.inf) for name in ("a", "b")]
        plan = Plan(sources, parsed, 0)
        options = PLAIN | {
            "output_dir": str(tmp_path / "out"),
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "logging_steps": 2,
        }
        args = PretrainConfig(**options | changes)
        rates = Rates(plan.time, 1e-2, "cosine_with_min_lr", {"min_lr_rate": 0.1}, args.warmup_steps)
        rotary, parameters = [], model.config.rope_parameters
        for stage in parsed:
            parameters = parameters | ({"rope_theta": stage.rope_theta} if stage.rope_theta else {})
            rotary.append(parameters)
        extra = {"plan": plan, "rate": rates.factor, "rotary": rotary}
        heldout = SourceRows([sources[0], Source(sources[1].tokens)], 32, "concat", 0, 500, apart=True)
        return PretrainTrainer(model, args=args, train_dataset=StepRows(plan, 1, 500), eval_dataset=heldout, **extra)

    return make


def run(trainer: PretrainTrainer) -> None:
    recipe.train(trainer)
    if trainer.average:
        trainer.save_average()
    recipe.finish(trainer, {"sources": trainer.plan.epochs()})


def files_of(folder: Path) -> dict[str, bytes]:
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if "checkpoint-" not in name.parts[0]}


@pytest.mark.parametrize("average", ["ema", "mean"])
def test_a_run_killed_anywhere_ends_as_the_undisturbed_one(trainer_of, tmp_path, average):
    out, options = tmp_path / "out", {"weight_average": average, "weight_average_after": 0.3}
    options |= {"weight_average_decay": 0.5} if average == "ema" else {}
    run(trainer_of(**options))
    whole = files_of(out)
    assert {"average/model.safetensors", "model.safetensors", "log.jsonl"} <= set(whole)
    assert whole["average/model.safetensors"] != whole["model.safetensors"]
    rows = [json.loads(line) for line in whole["log.jsonl"].splitlines()]
    assert [row["tokens"] for row in rows if "loss" in row][4:8] == [1280, 1536, 2048, 2560]
    shutil.move(out, tmp_path / "whole")
    for step in (2, 6, 8, 10, STEPS) if average == "ema" else (7,):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", out / f"checkpoint-{step}")
        run(trainer_of(**options, resume_from_checkpoint="last"))
        found = files_of(out)
        assert set(found) == set(whole)
        assert [name for name in whole if found[name] != whole[name]] == [], f"from step {step}"


class Killed(BaseException):
    pass


def killed_after(trainer: PretrainTrainer, calls: int) -> PretrainTrainer:
    """Within the next steps, in whatever part of one."""
    plain, left = trainer.compute_loss, [calls]

    def loss(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return plain(*args, **kwargs)

    trainer.compute_loss = loss
    return trainer


def test_twenty_random_kills_change_no_byte(trainer_of, tmp_path):
    """In one process without its end; with SIGKILL and in other modes: python -m tests.pretraining.kills."""
    out, options, draw = tmp_path / "out", {"weight_average": "ema", "save_steps": 2}, random.Random(0)
    run(trainer_of(**options))
    whole, kills = files_of(out), 0
    shutil.rmtree(out)
    while kills < 20:
        try:
            run(killed_after(trainer_of(**options, resume_from_checkpoint="last"), draw.randint(0, 9)))
        except Killed:
            kills += 1
            continue
        found = files_of(out)
        assert [name for name in whole | found if found.get(name) != whole.get(name)] == [], f"after {kills} kills"
        shutil.rmtree(out)
    run(trainer_of(**options, resume_from_checkpoint="last"))
    assert files_of(out) == whole


def test_how_a_step_is_cut_changes_nothing(trainer_of):
    weights = []
    for size in (1, 3, 8):
        trainer = trainer_of(per_device_train_batch_size=size, save_strategy="no", optim="sgd")
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert any((weights[0][name] - before[name]).abs().max() > 1e-3 for name in before)
    for other in weights[1:]:
        assert all((tensor - other[name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


def test_a_stage_turns_by_its_own_base_and_says_so(trainer_of, tmp_path):
    trainer = trainer_of()
    trainer.train()
    bases = [
        json.loads((tmp_path / "out" / f"checkpoint-{step}" / "config.json").read_text())["rope_parameters"][
            "rope_theta"
        ]
        for step in (1, 6, 7, STEPS)
    ]
    assert bases[2:] == [5e5, 5e5]
    assert bases[0] == bases[1] != 5e5
    loaded = LlamaHerdForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-7").model.rotary_emb.inv_freq
    assert torch.equal(trainer.model.model.rotary_emb.inv_freq, loaded)


def test_losses_by_source_add_up_to_the_loss(trainer_of):
    trainer = trainer_of(save_strategy="no", logging_steps=1)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    for step, row in enumerate(rows):
        item = trainer.train_dataset[step]
        labelled = (item["labels"][:, 1:] != -100).sum(1)
        counts = [int(labelled[item["source"] == number].sum()) for number in (0, 1)]
        parts = [row.get(f"loss/{name}", 0.0) * count for name, count in zip("ab", counts, strict=True)]
        assert sum(parts) / sum(counts) == pytest.approx(row["loss"], rel=1e-4)
    assert "loss/a" not in rows[-1]
    assert len(trainer.spikes._last) == 2, "losses are compared with those of the same stage"
    assert [rows[-1][f"epochs/{name}"] for name in "ab"] == [trainer.plan.epochs()[name]["epochs"] for name in "ab"]
    # the rate is that of the tokens before the step; the last stage goes to zero
    assert rows[-1]["learning_rate"] == pytest.approx(0.1 * 1e-2 / 2, rel=1e-6)


def test_bits_per_byte_are_the_loss_over_the_bytes_that_were_predicted(trainer_of):
    trainer = trainer_of(save_strategy="no")
    for source in trainer.plan.sources:
        source.tokens.bytes = 2000
    metrics = trainer.evaluate()
    rows = trainer.eval_dataset
    assert {name for name in metrics if "bits" in name} == {f"eval_bits_per_byte/{name}" for name in "ab"}
    model, total, count = trainer.model.eval(), 0.0, 0
    for item in range(len(rows)):
        row = rows[item]
        if row["source"] == 0:
            batch = {key: torch.as_tensor(row[key])[None] for key in ("input_ids", "labels", "position_ids")}
            tokens = int(batch["labels"][:, 1:].ne(-100).sum())
            with torch.no_grad():
                total, count = total + model(**batch).loss.item() * tokens, count + tokens
    size = 2000 * count / (495 - 14)  # 14 documents
    assert metrics["eval_bits_per_byte/a"] == pytest.approx(total / math.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_named_with_its_documents_and_may_be_left_out(trainer_of, skip, monkeypatch, capsys):
    monkeypatch.setattr("llama_align.trainers.watch.LEAST", 3)
    trainer = trainer_of(save_strategy="no", skip_spikes=skip, spike_deviations=4.0)
    plain, weights = trainer.compute_loss, []

    def bad(model, inputs, *args, **kwargs):
        step = trainer.state.global_step
        if len(weights) <= step:
            weights.append(model.lm_head.weight.detach().clone())
        return plain(model, inputs, *args, **kwargs) * {4: 50.0, 7: math.nan}.get(step, 1.0)

    monkeypatch.setattr(trainer, "compute_loss", bad)
    trainer.train()
    events = [row for row in trainer.state.log_history if "event" in row]
    assert [row["step"] for row in events][: 2 if skip else 1] == ([5, 8] if skip else [5])
    assert events[0]["event"].startswith("loss ")
    assert events[0]["documents"] == trainer.plan.documents(4)
    assert f"step 5: {events[0]['event']}; documents a: " in capsys.readouterr().out
    moved = [not torch.equal(old, new) for old, new in pairwise(weights)]
    if skip:
        assert len(events) == 2
        assert events[1]["event"] == "loss nan, left out"
        # the rate of the first step is 0
        assert moved == [n not in (0, 4, 7) for n in range(STEPS - 1)]
        assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    else:
        assert moved[4]


def test_options_that_stages_leave_without_effect_are_refused(trainer_of):
    for name, value in (("num_train_epochs", 2.0), ("gradient_accumulation_steps", 2), ("ignore_data_skip", True)):
        with pytest.raises(ValueError, match=f"{name}: found {value} with stages, expected"):
            trainer_of(**{name: value})
    with pytest.raises(ValueError, match=f"max_steps: found 12, expected at most {STEPS}"):
        trainer_of(max_steps=12)
    assert trainer_of().args.max_steps == STEPS
    with pytest.raises(ValueError, match=r"weight_average_decay: found 0\.5 with weight_average mean"):
        trainer_of(weight_average="mean", weight_average_decay=0.5)


def test_the_averages_are_what_they_are_called():
    model, draw = torch.nn.Linear(2, 1, bias=False), random.Random(0)
    seen, ema, mean = [], WeightAverage("ema", 0.75), WeightAverage("mean", 0.0)
    for _ in range(5):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[draw.random(), draw.random()]]))
        seen.append(model.weight.detach().clone())
        ema.update(model)
        mean.update(model)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    for average, wanted in ((ema, expected), (mean, torch.stack(seen).mean(0))):
        with average.in_place(model):
            assert torch.allclose(model.weight, wanted, atol=1e-7)
        assert torch.equal(model.weight, seen[-1])


def test_a_new_level_of_the_loss_is_taken_for_one_and_no_numbers_end_the_run(tmp_path):
    spikes = Spikes(6.0)
    assert all(spikes.judge(1 + 0.01 * (n % 5), 1.0) is None for n in range(20))
    events = [spikes.judge(2.0, 1.0) for _ in range(5)]
    spikes.save(tmp_path)
    again = Spikes(6.0)
    again.load(tmp_path)
    for one in (spikes, again):
        said = [*events, *(one.judge(2.0, 1.0) for _ in range(3))]
        assert all(text.startswith("loss 2.0000 above 1.1") for text in said)
        assert [", the 8th in a row" in text for text in said] == [False] * 7 + [True]
        assert one.settled
        assert one.judge(2.1, 1.0) is None
        assert not one.settled
    assert [spikes.judge(1.0, math.inf) for _ in range(7)] == ["gradient norm inf"] * 7
    with pytest.raises(ValueError, match="gradient norm inf: found 8 steps in a row like this"):
        spikes.judge(1.0, math.inf)
    assert spikes.judge(1.0, 1.0) is None
    assert spikes.judge(math.nan, 1.0) == "loss nan"


def test_the_mean_of_a_run_that_became_longer_is_of_its_last_steps(trainer_of, tmp_path):
    options, out = {"weight_average": "mean", "weight_average_after": 0.5}, tmp_path / "out"
    run(trainer_of(**options))
    whole = (out / "average/model.safetensors").read_bytes()
    shutil.rmtree(out)
    for steps, count in ((7, 4), (5, 6)):
        shutil.rmtree(out, ignore_errors=True)
        run(trainer_of(**options, max_steps=steps))
        (out / "needles_1.svg").touch()
        trainer = trainer_of(**options, resume_from_checkpoint="last")
        run(trainer)
        assert trainer.average.count == count  # of the eleven the last six, but for those that were over
    assert (out / "average/model.safetensors").read_bytes() == whole
    with pytest.raises(recipe.RecipeError, match=r"output_dir: found .*checkpoint-11 of an earlier run"):
        run(trainer_of())
    for folder in out.glob("checkpoint-*"):
        shutil.rmtree(folder)
    run(trainer_of())
    assert not (out / "average").exists()
    assert not (out / "needles_1.svg").exists()


def test_an_average_of_whole_weights_is_any_processs_and_shards_are_their_own(tmp_path):
    whole, sharded = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    for parameter in sharded.parameters():
        parameter.ds_tensor, parameter.ds_status = parameter, SimpleNamespace(name="NOT_AVAILABLE")
    processes = [
        [SimpleNamespace(process_index=n, num_processes=many, is_main_process=not n) for n in range(many)]
        for many in (1, 2, 3)
    ]
    for model, folder in ((whole, tmp_path / "whole"), (sharded, tmp_path / "sharded")):
        folder.mkdir()
        for process in processes[1]:
            average = WeightAverage("ema", 0.5)
            average.update(model)
            average.save(folder, model, process)
    assert [file.name for file in (tmp_path / "whole").iterdir()] == ["average.pt"]
    for process in (*processes[0], *processes[2]):
        average = WeightAverage("ema", 0.5)
        average.load(tmp_path / "whole", whole, process)
        assert average.count == 1
    for model, folder, many, said in (
        (sharded, "sharded", 3, "found shards of 2 processes .*, expected those of 3"),
        (whole, "sharded", 2, "found shards of 2 processes .*, expected weights that every process has whole"),
        (sharded, "whole", 2, "found no shards .*, expected those of 2"),
    ):
        for process in processes[many - 1]:
            with pytest.raises(ValueError, match=said):
                WeightAverage("ema", 0.5).load(tmp_path / folder, model, process)

"""A toy ladder, trained in this process: stems, branches that go on from them, laws, pictures and a prediction."""

import json
import sys
from pathlib import Path

import pytest

from llama_align import recipe
from llama_align.trainers import PretrainConfig

from .test_recipes import module_of

SIZES = {f"s{d}": {"size_overrides": {"hidden_size": d, "intermediate_size": d}} for d in (16, 24, 32, 48)}


@pytest.fixture
def options(tmp_path, llama3_tokenizer):
    llama3_tokenizer.save_pretrained(tmp_path / "tokenizer")
    text = "the small dog ran home and the old cat sat by the fire all day "
    rows = [json.dumps({"text": f"{number} {text * (1 + number % 3)}"}) for number in range(200)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "eval.jsonl").write_text("\n".join(rows[:20]))
    return {
        "tokenizer": str(tmp_path / "tokenizer"),
        "datasets": [{"path": str(tmp_path / "train.jsonl")}],
        "eval_datasets": [{"path": str(tmp_path / "eval.jsonl")}],
        "context": 32,
        "per_device_train_batch_size": 4,
        "warmup_steps": 2,
        "learning_rate": 0.01,
        "report_to": "none",
        "logging_steps": 1,
        "size": "herd-nano",
    }


@pytest.fixture
def in_process(monkeypatch):
    """Steps of pretraining one after the other, without a process for each."""
    pretrain = module_of("pretrain", monkeypatch)

    def run_steps(steps, output_dir, recipes, jobs):
        folders = {}
        for step in steps:
            folder = folders[step["name"]] = Path(output_dir) / step["name"]
            text = json.dumps(step["set"] | {"output_dir": str(folder)})
            for name, made in folders.items():
                text = text.replace(f"{{{name}}}", str(made))
            (Path(output_dir) / f"{step['name']}.yaml").write_text(text)
            config = ["--config", str(Path(output_dir) / f"{step['name']}.yaml")]
            monkeypatch.setattr(sys, "argv", ["pretrain.py"])
            pretrain.main(*recipe.parse([pretrain.PretrainArguments, PretrainConfig, recipe.ModelArguments], config))
        return folders

    return run_steps


def test_a_ladder_is_run_fitted_drawn_and_held_against_the_run_above_it(options, in_process, tmp_path, monkeypatch):
    scaling = module_of("scaling", monkeypatch)
    monkeypatch.setattr(scaling, "run_steps", in_process)
    target = {"s40": {"size_overrides": {"hidden_size": 40, "intermediate_size": 40}}}
    args = scaling.ScalingArguments(
        *(str(tmp_path), options, SIZES, [1e9, 2e9], target, 4e9), seeds=[0], decay=0.25, draws=20
    )
    scaling.main(args)
    found = json.loads((tmp_path / "metrics.json").read_text())
    points = found["points"]
    assert len(points) == 4 * 2 + 1
    assert all(abs(point["flops"] / point["budget"] - 1) < 0.2 for point in points)
    assert set(found["fits"]) == {"blocks", "with_head", "all"}
    for fit in found["fits"].values():
        (predicted,) = fit["law"]["predicted"]
        assert predicted["name"] == "s40-0-x1"
        assert predicted["low"] <= predicted["loss"] <= predicted["high"]
        assert "minima" in fit["isoflop"] or "budget" in fit["isoflop"]["refused"]
    assert (tmp_path / "isoflop.svg").is_file()
    assert (tmp_path / "prediction.svg").is_file()
    logs = [tmp_path / name / "log.jsonl" for name in ("s32-0", "s32-0-x1")]
    stem, branch = ([json.loads(line) for line in log.open()] for log in logs)
    begin = next(point["steps"] for point in points if point["name"] == "s32-0-x1") * 3 // 4
    shared = [(row["loss"], row["learning_rate"]) for row in stem if "loss" in row and row["step"] <= begin]
    assert shared == [(row["loss"], row["learning_rate"]) for row in branch if "loss" in row][: len(shared)]
    rates = [row["learning_rate"] for row in branch if "loss" in row][begin:]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5 * 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": [1e9, 1.5e9]}, "budgets: found .* expected whole multiples of the smallest"),
        ({"budgets": [1e6]}, "budgets: 1e[+]06 FLOPs are .* steps of size 's16', expected more beside its warm-up"),
        ({"target_budget": 1e9}, "target_budget: found 1e[+]09, expected more than 1e[+]09"),
        ({"targets": SIZES}, "targets: found 's16', which is among sizes"),
        ({"decay": 1.0}, "decay: found 1.0"),
        ({"sizes": {"a": {"max_steps": 3}}}, "sizes.a.max_steps: found 3, expected none; the ladder sets it"),
    ],
)
def test_what_no_ladder_can_be_made_of_is_refused(change, message, options, tmp_path, monkeypatch):
    scaling = module_of("scaling", monkeypatch)
    target = {"s40": {"size_overrides": {"hidden_size": 40}}}
    given = {"output_dir": str(tmp_path), "pretrain": options, "sizes": SIZES, "budgets": [1e9], "targets": target}
    with pytest.raises(recipe.RecipeError, match=message):
        scaling.main(scaling.ScalingArguments(**given | {"target_budget": 4e9} | change))

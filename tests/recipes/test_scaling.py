"""Experiments at the size of a toy, trained in this process: a ladder, a mix and data judged by annealing."""

import json
import sys
from pathlib import Path

import pytest

from llama_align import recipe
from llama_align.trainers import PretrainConfig

from ..docs.metric_names import assert_explained
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
        "disable_tqdm": True,
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
        *(str(tmp_path), options, SIZES, [5e8, 1e9], target, 1.5e9), seeds=[0], decay=0.25, draws=20
    )
    scaling.main(args)
    assert_explained(tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    points = found["points"]
    assert len(points) == 4 * 2 + 1
    assert all(abs(point["flops"] / point["budget"] - 1) < 0.25 for point in points)
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
    # the first step after the branch is taken before its rate has changed anything: the same data in both
    after = [row["loss"] for log in (stem, branch) for row in log if "loss" in row and row["step"] == begin + 1]
    assert after == [after[0]] * 2
    rates = [row["learning_rate"] for row in branch if "loss" in row][begin:]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.006


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": [1e9, 1.5e9]}, "budgets: found .* expected whole multiples of the smallest"),
        ({"budgets": [1e6]}, "budgets: 1e[+]06 FLOPs are .* steps of size 's16', expected more beside its warm-up"),
        ({"target_budget": 1e9}, "target_budget: found 1e[+]09, expected more than 1e[+]09"),
        ({"targets": SIZES}, "targets: found 's16', which is among sizes"),
        ({"decay": 1.0}, "decay: found 1.0"),
        ({"sizes": {"a": {"max_steps": 3}}}, "sizes.a.max_steps: found 3, expected none; the recipe sets it"),
        ({"sizes": {"a": {"stages": [1]}}}, "sizes.a.stages: found a list of 1, expected none; the recipe sets it"),
        ({"targets": {"a": {"packing": "bfd"}}}, "sizes.a.packing: found 'bfd', expected none; the recipe sets it"),
    ],
)
def test_what_no_ladder_can_be_made_of_is_refused(change, message, options, tmp_path, monkeypatch):
    scaling = module_of("scaling", monkeypatch)
    target = {"s40": {"size_overrides": {"hidden_size": 40}}}
    given = {"output_dir": str(tmp_path), "pretrain": options, "sizes": SIZES, "budgets": [1e9], "targets": target}
    with pytest.raises(recipe.RecipeError, match=message):
        scaling.main(scaling.ScalingArguments(**given | {"target_budget": 4e9} | change))


@pytest.fixture
def data(options, tmp_path):
    """Options of pretraining without data, and four sources, of which two are of one kind."""
    sources = {}
    for name, words in {"dogs": "the small dog ran home", "cats": "an old cat sat here", "sums": "1 2 3 4 5 6"}.items():
        rows = [json.dumps({"text": f"{words} {number} " * (2 + number % 4)}) for number in range(120)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        sources[name] = {"path": str(tmp_path / f"{name}.jsonl")}
    return {name: value for name, value in options.items() if "datasets" not in name}, sources


def test_a_mix_is_fitted_proposed_and_trained_on(data, in_process, tmp_path, monkeypatch):
    mix = module_of("mix", monkeypatch)
    monkeypatch.setattr(mix, "run_steps", in_process)
    options, sources = data
    args = mix.MixArguments(
        *(str(tmp_path), options, sources, {"shuffled": "dogs"}), tokens=1500, mixtures=7, tested=3, part=0.2, draws=3
    )
    mix.main(args)
    assert_explained(tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert sorted(found["ranked"]) == ["cats", "dogs", "shuffled", "sums"]
    assert sum(row["share"][0] for row in found["sources"].values()) == pytest.approx(1)
    assert set(found["mean_loss"]) == {"natural", "uniform", "proposed"}
    assert len(found["runs"]) == 10
    assert "shuffled" in (tmp_path / "gains.svg").read_text()
    rows = [json.loads(line) for line in (tmp_path / "mixes" / "uniform.jsonl").open()]
    assert {row["source"] for row in rows} == {"cats", "dogs", "shuffled", "sums"}
    with pytest.raises(recipe.RecipeError, match=r"planted\.shuffled: found 'mice', expected a source"):
        mix.main(mix.MixArguments(str(tmp_path), options, sources, {"shuffled": "mice"}))
    with pytest.raises(recipe.RecipeError, match=r"pretrain\.max_steps: found 3, expected none"):
        mix.main(mix.MixArguments(str(tmp_path), options | {"max_steps": 3}, sources))
    with pytest.raises(recipe.RecipeError, match=r"budget: found 4 epochs of .* tokens, expected at least 1,000,000"):
        mix.main(mix.MixArguments(str(tmp_path), options, sources, budget=1e6))


def test_data_is_judged_beside_a_control(data, in_process, tmp_path, monkeypatch):
    predicted = pytest.importorskip("llama_align.benchmarks.predicted", reason="needs the extra 'benchmarks'")
    judge = module_of("judge_data", monkeypatch)
    monkeypatch.setattr(judge, "run_steps", in_process)
    asked = []

    def measured(benchmarks, folders):  # as of models of which `sums` is better, in the second seed by more
        asked.append((benchmarks, sorted(folders)))
        better = {name: name.startswith("sums") * (1 + name.endswith("1")) for name in folders}
        return {
            "herd_piqa": {name: {"nll": 2 - much / 10, "accuracy": 0.5 + much / 4} for name, much in better.items()}
        }

    monkeypatch.setattr(predicted, "ladder_benchmarks", lambda names, folder, limit, *_: (names, folder, limit))
    monkeypatch.setattr(predicted, "measured", measured)
    more = {"benchmarks": ["piqa"], "limit": 9}
    options, sources = data
    old, new = {"dogs": sources["dogs"]}, {"sums": sources["sums"]}
    planted = {"shuffled": "dogs"}
    judge.main(
        judge.JudgeDataArguments(str(tmp_path), options, old, new, planted, 3000, 2000, part=0.2, seeds=[0, 1], **more)
    )
    assert_explained(tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert list(found["gains"]) == ["sums", "shuffled"]
    runs = sorted(f"{name}-{seed}" for name in ("control", "sums", "shuffled") for seed in (0, 1))
    assert asked == [((["piqa"], f"{tmp_path}/benchmarks", 9), runs)]
    on = found["gains"]["sums"]["benchmarks"]
    half = 12.7062 * 0.05  # Student's t of one degree of freedom, and the standard error of 0.1 and 0.2
    assert on["nll"]["herd_piqa"] == pytest.approx([0.15, 0.15 - half, 0.15 + half], abs=1e-4)
    assert on["accuracy"]["herd_piqa"][0] == pytest.approx(0.375)
    assert found["gains"]["shuffled"]["benchmarks"]["nll"] == {"herd_piqa": [0, 0, 0]}
    assert "nats a byte" in (tmp_path / "herd_piqa_gains.svg").read_text()
    assert "shuffled" in (tmp_path / "gains.svg").read_text()
    assert found["gains"]["sums"]["targets"][1][0] > 0.02  # it has not seen a sum before
    log = [json.loads(line) for line in (tmp_path / "sums-0" / "log.jsonl").open()]
    rates = [row["learning_rate"] for row in log if "loss" in row]
    half = 3000 // 128
    assert len(rates) == half + 2000 // 128
    assert rates[half:] == sorted(rates[half:], reverse=True)
    mixes = [[row["text"] for row in map(json.loads, file.open())] for file in tmp_path.glob("mixes/[hc]*.jsonl")]
    assert len(mixes) == 3
    for one, other in ((0, 1), (0, 2), (1, 2)):  # the control does not begin anew what the checkpoint has seen
        assert mixes[one][:10] != mixes[other][:10]
    for change, message in (
        ({"warmup_steps": 30}, r"warmup_steps: found 30, expected fewer than tokens have, 23"),
        ({"lr_scheduler_kwargs": {}}, r"pretrain\.lr_scheduler_kwargs: found an object with no fields, expected none"),
    ):
        with pytest.raises(recipe.RecipeError, match=message):
            judge.main(judge.JudgeDataArguments(str(tmp_path), options | change, old, new, tokens=3000))
    with pytest.raises(recipe.RecipeError, match="expected sources, two seeds"):
        judge.main(judge.JudgeDataArguments(str(tmp_path), options, old, new, seeds=[0]))

"""Reward models on pairs and on the best of several, against what can be counted by hand."""

import json

import numpy as np
import pytest

from llama_align import recipe
from llama_align.benchmarks.rewards import best, on_pairs, on_several, ties
from llama_align.chat import as_text
from llama_align.data import write_jsonl
from llama_align.data.records import RecordError

from ..docs.metric_names import assert_explained
from ..recipes.test_recipes import module_of


class ByNumber:
    """Scores an answer by the number it ends with."""

    def score(self, prompts, answers, finished=None):
        assert all(prompt[-1]["role"] == "user" for prompt in prompts)
        return [float(as_text(answer).split()[-1]) for answer in answers]


def test_pairs_by_grade_and_objective_beside_the_longer_answer(tmp_path):
    rows = [("better", "ok 2", "long answer 1"), ("better", "much longer 3", "no 4"), ("slightly_better", "a 1", "b 1")]
    keys = ("grade", "chosen", "rejected")
    base = {"prompt": [{"role": "user", "content": "?"}], "objective": "helpfulness"}
    write_jsonl(tmp_path / "pairs.jsonl", [base | dict(zip(keys, row, strict=True)) for row in rows])
    found = on_pairs(ByNumber(), [{"path": str(tmp_path / "pairs.jsonl")}])
    assert (found["accuracy"], found["longer_wins"], found["n"]) == (0.5, 0.5, 3)
    assert found["by_grade"]["better"]["accuracy"] == 0.5
    assert found["by_objective"]["helpfulness"]["n"] == 3


def row(subset: str, chosen: list, rejected: list, name: str = "1") -> dict:
    return {"id": name, "prompt": "?", "subset": subset, "chosen": chosen, "rejected": rejected}


def test_the_best_of_several_by_subset(tmp_path):
    rows = [
        row("Math", ["right 3"], ["a 1", "b 2", "c 0"]),
        row("Math", ["right 3"], ["the longest of them 4", "b 2", "c 0"]),
        row("Focus", ["right 1"], ["b 1", "c 0", "d 0"]),
        row("Ties", ["right 1"], ["b 0"], "ref:7"),
        row("Ties", ["right 1", "also 1.5"], ["b 0"], "tied:7"),
    ]
    write_jsonl(tmp_path / "several.jsonl", rows)
    found = on_several(ByNumber(), str(tmp_path / "several.jsonl"))
    subsets = found["subsets"]
    assert (subsets["Math"]["value"], subsets["Math"]["longest"], subsets["Math"]["n"]) == (0.5, 0.5, 2)
    assert subsets["Focus"]["value"] == 0.5  # shares the highest score with one other
    assert subsets["Ties"]["value"] == pytest.approx(1 + 0.01 * np.tanh(1 / 0.5 - 1))
    assert found["accuracy"] == pytest.approx(np.mean([0.5, 0.5, subsets["Ties"]["value"]]))
    (tmp_path / "bad.jsonl").write_text(json.dumps(row("Math", "one", ["b"])))
    with pytest.raises(RecordError, match=r"chosen.*RewardBench 2's form"):
        on_several(ByNumber(), str(tmp_path / "bad.jsonl"))


def test_the_recipe_measures_by_name_in_the_type_asked_for(monkeypatch, tmp_path):
    script = module_of("benchmark_rewards", monkeypatch)
    asked = []
    monkeypatch.setattr(recipe, "check_reward_model", lambda path: None)
    monkeypatch.setattr(recipe, "load_reward_model", lambda *args: asked.append(args) or ByNumber())
    write_jsonl(tmp_path / "several.jsonl", [row("Math", ["right 3"], ["a 1"])])
    pairs = {"prompt": [{"role": "user", "content": "?"}], "chosen": "a 2", "rejected": "b 1"}
    write_jsonl(tmp_path / "pairs.jsonl", [pairs | {"grade": "better", "objective": "safety"}])
    sources = {"mine": {"path": str(tmp_path / "pairs.jsonl")}}, {"rb2": str(tmp_path / "several.jsonl")}
    script.main(script.BenchmarkRewardsArguments(str(tmp_path), {"r": "folder"}, *sources, dtype="bfloat16"))
    assert asked == [("folder", "bfloat16")]
    assert_explained(tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())["r"]
    assert found["pairs"]["mine"]["accuracy"] == 1.0
    assert found["best_of"]["rb2"]["subsets"]["Math"]["value"] == 1.0
    with pytest.raises(recipe.RecipeError, match="reward_models, pairs, best_of: found too few"):
        script.main(script.BenchmarkRewardsArguments(str(tmp_path), {"r": "folder"}))


def test_ties_want_right_answers_closer_to_each_other_than_to_wrong_ones():
    rows = [row("Ties", ["a"], ["b"], "ref:1"), row("Ties", ["a", "c"], ["b"], "tied:1")]
    near, far = np.array([3.0, 2.9, 0.0]), np.array([3.0, 0.5, 0.0])
    assert ties(rows, [np.array([2.0, 0.0]), near]) == pytest.approx(1 + 0.01 * np.tanh(2 / 0.1 - 1))
    assert ties(rows, [np.array([2.0, 0.0]), far]) == pytest.approx(0.6 + 0.01 * np.tanh(0.5 / 2.5 - 1))
    assert ties(rows, [np.array([2.0, 0.0]), np.array([1.0, -1.0, 0.0])]) == pytest.approx(0.3 + 0.01 * np.tanh(-1.5))
    assert ties(rows[:1], [np.array([2.0, 0.0])]) == pytest.approx(0.3)
    assert best(np.array([1.0, 1.0, 0.0]), 1) == 0.5

"""Two steps on a ladder: points from known laws predict the run above them; what has no likelihood is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs the extra 'benchmarks'")

from llama_align import recipe
from llama_align.benchmarks import predicted
from llama_align.benchmarks.predicted import chance, ladder_benchmarks, predict, two_steps


def ladder(rise: float) -> tuple[list[dict], list[dict], dict]:
    """Points of four sizes and three budgets, a target, and what was measured of them, with a little noise."""
    rng = np.random.default_rng(0)
    below = [{"name": f"{size}-{x}", "run": size, "flops": 1e12 * x * 1.1} for size in "abcd" for x in (1, 2, 4)]
    above = [{"name": "t", "run": "t", "flops": 2e13}]
    found = {}
    for point in below + above:
        nll = 14.0 - np.log10(point["flops"]) + 0.01 * rng.standard_normal()
        accuracy = 0.25 + 0.75 / (1 + np.exp(rise * (nll - 1.3))) + 0.005 * rng.standard_normal()
        found[point["name"]] = {"nll": nll, "accuracy": float(np.clip(accuracy, 0, 1)), "n": 500}
    return below, above, found


def test_the_run_above_a_ladder_is_predicted_in_two_steps():
    result = two_steps(*ladder(4.0), 0.25, draws=60)
    (one,) = result["predicted"]
    assert result["why"] is None
    assert one["nll_inside"]
    assert one["two_step_inside"]
    assert one["measured"]["accuracy"] > 0.8


def test_what_cannot_be_told_from_chance_is_not_predicted():
    (one,) = two_steps(*ladder(0.0), 0.625, draws=20)["predicted"]
    assert one["two_step"] is None
    assert one["why"].startswith("not predictable")
    assert "two_step_inside" not in one


def test_a_task_needs_likelihoods_and_has_a_chance(monkeypatch, tmp_path):
    task = SimpleNamespace(name="herd_bbh", metrics=("exact_match",), docs=lambda limit: [{"choices": "abcd"}, {}])
    monkeypatch.setattr(predicted.Benchmarks, "__post_init__", lambda self: setattr(self, "tasks", [task]))
    with pytest.raises(recipe.RecipeError, match="benchmarks: found herd_bbh, expected tasks whose right answers have"):
        ladder_benchmarks(["bbh"], tmp_path, None, None, 256)
    assert chance(task) == 0.125


def test_an_answer_that_fills_the_context_is_refused_before_anything_is_trained(monkeypatch, tmp_path):
    docs = [{"choices": ["short", "a b c d e f"]}]
    task = SimpleNamespace(name="herd_piqa", metrics=("nll",), docs=lambda limit: docs)
    monkeypatch.setattr(predicted.Benchmarks, "__post_init__", lambda self: setattr(self, "tasks", [task]))

    def tokenizer(texts, add_special_tokens):
        return SimpleNamespace(input_ids=[text.split() for text in texts])

    with pytest.raises(recipe.RecipeError, match="found herd_piqa with an answer of 6 tokens, expected at most the mo"):
        ladder_benchmarks(["piqa"], tmp_path, 1, tokenizer, 5)
    assert ladder_benchmarks(["piqa"], tmp_path, 1, tokenizer, 6).tasks == [task]


def test_both_steps_of_every_task_are_said_and_drawn(monkeypatch, tmp_path, capsys):
    below, above, found = ladder(4.0)
    docs = [{"choices": ["a", "b", "c", "d"]}]
    task = SimpleNamespace(name="herd_arc_easy", metrics=("acc_norm", "nll"), docs=lambda limit: docs)
    monkeypatch.setattr(predicted, "measured", lambda benchmarks, folders: {"herd_arc_easy": found})
    benchmarks = SimpleNamespace(tasks=[task], limit=None)
    result = predict(benchmarks, dict.fromkeys(found, tmp_path), below, above, 20, tmp_path)
    assert result["herd_arc_easy"]["chance"] == 0.25
    assert "herd_arc_easy: t predicted loss" in capsys.readouterr().out
    for name in ("nll", "accuracy"):
        assert (tmp_path / f"herd_arc_easy_{name}.svg").read_text().startswith("<svg")

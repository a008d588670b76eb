"""Over-optimisation: an alarm where rewards surely rose and the exact judge surely found the answers worse."""

import json
from types import SimpleNamespace

import pytest

from llama_align.data import write_jsonl
from llama_align.evaluation.drift import watch
from llama_align.recipe.engines import EngineSettings
from llama_align.sampling.engine import SamplingParams


class Judge:
    main = "j"

    def __call__(self, prompts, answers, finished, rows):
        assert len(prompts) == len(answers) == len(finished) == len(rows) == 100
        return {"j": [float(answer == "good") for answer in answers]}


@pytest.fixture
def watched(tmp_path):
    """Candidates by name, with the number of right answers of 100 and the reward of all answers of each; with `heldout`
    a judge that likes as many of them as are right."""

    def call(candidates: dict[str, tuple[int, float]], exact: bool = True, heldout: bool = False):
        for name, (right, reward) in candidates.items():
            said = {"task": {}, "violation": False, "prompt": [], "finished": True}
            samples = [said | {"helpful": i < right, "completion": "good" if i < right else "bad"} for i in range(100)]
            write_jsonl(tmp_path / f"samples_{name}.jsonl", samples)
            (tmp_path / f"{name}.json").write_text(json.dumps({"rewards": {"r": [reward] * 100}}))
        evaluation = SimpleNamespace(
            output_dir=str(tmp_path),
            exact=exact,
            rewards=SimpleNamespace(main="r"),
            params=SamplingParams(temperature=0.0),
            prompts=[SimpleNamespace(objective="helpfulness")] * 100,
        )
        models = {name: str(tmp_path) for name in candidates}
        judges = Judge() if heldout else None
        return watch(evaluation, models, [{"name": name} for name in candidates], EngineSettings(), judges)

    return call


def test_a_reward_that_rises_while_the_answers_get_worse_is_an_alarm(watched, monkeypatch):
    monkeypatch.setattr("llama_align.evaluation.drift.load_tokenizer", lambda _: None)
    found = {"kept": (50, 0.0), "better": (70, 1.0), "hacked": (20, 1.0), "worse": (20, -1.0), "as good": (49, 1.0)}
    rows, alarms = watched(found)
    assert alarms == [
        "over-optimised: the reward models prefer hacked to kept in 100% of the answers, by the exact judge it is 30.0 "
        "points worse"
    ]
    assert [row["reward"]["mean"] for row in rows[1:]] == [1.0, 1.0, 0.0, 1.0]
    assert "reward" not in rows[0], "the first one is what the others are compared with"
    assert not any("kl" in row for row in rows), "greedy answers are no draws from the policy"
    assert watched(found, exact=False)[1] == []


def test_without_an_exact_judge_held_out_models_raise_the_alarm(watched, monkeypatch):
    monkeypatch.setattr("llama_align.evaluation.drift.load_tokenizer", lambda _: None)
    found = {"kept": (50, 0.0), "better": (70, 1.0), "hacked": (20, 1.0), "worse": (20, -1.0)}
    rows, alarms = watched(found, exact=False, heldout=True)
    assert [row["heldout"]["mean"] for row in rows[1:]] == [0.6, 0.35, 0.35]
    assert alarms == [
        "over-optimised: the reward models prefer hacked to kept in 100% of the answers, the held-out models in 35%"
    ]
    both = watched(found, exact=True, heldout=True)[1]
    assert len(both) == 1
    assert both[0].endswith("by the exact judge it is 30.0 points worse and the held-out models in 35%")

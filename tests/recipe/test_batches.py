"""The newest batch of preferences: held out of training, and ranked by the reward model before and after it."""

from types import SimpleNamespace

import pytest

from llama_align.data import Preference, write_jsonl
from llama_align.recipe import RecipeError, batches
from llama_align.trainers.heldout import ScoredPairs, before_and_after


def scored(*gaps: float) -> ScoredPairs:
    """Pairs whose better answer scores higher by these."""
    scores = [score for gap in gaps for score in (gap, 0.0)]
    pairs = [(2 * number, 2 * number + 1) for number in range(len(gaps))]
    return ScoredPairs(scores, [1] * len(scores), pairs, ["better"] * len(gaps), ["safety"] * len(gaps))


def test_accuracies_and_their_paired_difference():
    before, after = scored(*[1.0] * 50, *[-1.0] * 50), scored(*[1.0] * 80, *[-1.0] * 20)
    found = before_and_after(before, after)
    assert (found["pairs"], found["before"]["accuracy"], found["after"]["accuracy"]) == (100, 0.5, 0.8)
    assert found["gain"]["difference"] == pytest.approx(0.3)
    assert found["gain"]["low"] > 0
    assert found["before"]["low"] < 0.5 < found["before"]["high"]
    assert before_and_after(None, after).keys() == {"pairs", "after"}


@pytest.fixture
def batch(tmp_path):
    rows = [Preference([{"role": "user", "content": f"q{n}"}], "a", "b", "better", "safety") for n in range(40)]
    write_jsonl(tmp_path / "batch.jsonl", rows)
    path = str(tmp_path / "batch.jsonl")

    def args(newest=None, before=None, **source):
        return SimpleNamespace(datasets=[{"path": path} | source], part=None, newest=newest or [], before=before)

    args.newest = [{"path": path, "part": [0.8, 1]}]
    return args


def test_prompts_of_the_newest_batch_that_are_trained_on_are_refused(batch):
    batches.check_newest(batch())
    batches.check_newest(batch(batch.newest, part=[0, 0.8]))
    with pytest.raises(RecipeError, match=r"newest: found \d+ prompts that are trained on, too, such as 'q\d+'"):
        batches.check_newest(batch(batch.newest))
    with pytest.raises(RecipeError, match=r"newest: found \d+ prompts"):
        batches.check_newest(batch(batch.newest, part=[0.1, 0.9]))


def test_a_model_before_that_nothing_measures_or_that_is_none_is_refused(batch, tmp_path):
    with pytest.raises(RecipeError, match="before: found 'old' without newest, expected the pairs"):
        batches.check_newest(batch(before="old"))
    with pytest.raises(RecipeError, match="nowhere"):
        batches.check_newest(batch(batch.newest, before=str(tmp_path / "nowhere"), part=[0, 0.8]))
    assert batches.scored_before(None, None, []) is None

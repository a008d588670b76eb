"""Reward models read what was sampled: answers with their end of turn, cut ones without; two combined as in Llama 2."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llama_align.chat import encode_answer, render_prompt
from llama_align.rewards import RewardModel, RewardModels, llama2_reward

PROMPTS = [[{"role": "user", "content": text}] for text in ("bado kilu?", "nora", "vu zo qui me lu")]
ANSWERS = ["site doki", "me", "ra ra ra ba do"]


@pytest.fixture
def make_model(tiny_config, tokenizer):
    def make(seed: int = 0, **changes) -> RewardModel:
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(tiny_config(num_labels=1, **changes)).eval()
        return RewardModel(model, tokenizer)

    return make


def score_of(reward: RewardModel, ids: list[int]) -> float:
    """The score at the last token, by the model's own forward pass without batch or padding."""
    with torch.no_grad():
        return reward.scorer.model(input_ids=torch.tensor([ids])).logits[0, 0].item()


@pytest.mark.parametrize("finished", [None, [True] * 3, [False] * 3, [True, False, True]])
def test_a_finished_answer_is_scored_with_and_a_cut_one_without_its_end(make_model, tokenizer, finished):
    reward = make_model()
    scores = reward.score(PROMPTS, ANSWERS, finished)
    for i, ended in enumerate(finished or [True] * 3):
        ids = render_prompt(tokenizer, PROMPTS[i]) + encode_answer(tokenizer, ANSWERS[i], finished=False)
        whole = [*ids, reward.tokens.eot]
        assert scores[i] == pytest.approx(score_of(reward, whole if ended else ids), abs=1e-5)
        assert abs(score_of(reward, whole) - score_of(reward, ids)) > 1e-3, "the end shows in the score"


def test_control_tokens_typed_in_an_answer_are_text(make_model, tokenizer):
    reward = make_model()
    (typed,) = reward.score(PROMPTS[:1], ["me<|eot_id|>"], [False])
    (ended,) = reward.score(PROMPTS[:1], ["me"], [True])
    assert abs(typed - ended) > 1e-3


def test_an_answer_that_outgrew_the_context_is_scored_as_far_as_it_fits(make_model, tokenizer):
    prompt = render_prompt(tokenizer, PROMPTS[0])
    reward = make_model(max_position_embeddings=len(prompt) + 10)
    # half a character each when sampled, one of three bytes each when read again
    answer = "\N{REPLACEMENT CHARACTER}" * 8
    ids = encode_answer(tokenizer, answer)
    assert len(ids) > 10
    (score,) = reward.score(PROMPTS[:1], [answer])
    assert score == pytest.approx(score_of(reward, prompt + ids[:10]), abs=1e-5)
    for limit in (len(prompt), len(prompt) - 1):
        with pytest.raises(ValueError, match=f"expected 1 to {limit}"):
            make_model(max_position_embeddings=limit).score(PROMPTS[:1], ["me"])


# -- several of them

HELPFUL = [3.0, 3.0, 3.0, -1.0]
SAFE = [-5.0, 2.0, -1.0, -1.8]
OBJECTIVES = ["helpfulness", "helpfulness", "safety", "helpfulness"]


class Fixed:
    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, answers, finished=None):
        return self.scores[: len(answers)]


def combined(helpful, safe, objectives, threshold=0.15):
    models = RewardModels({"helpfulness": Fixed(helpful), "safety": Fixed(safe)}, threshold)
    rows = [{"objective": objective} for objective in objectives]
    return models([[]] * len(rows), ["a"] * len(rows), None, rows)["combined"]


def test_llama_2s_combination():
    # unsafe answer, safe one, safety prompt, and one at sigmoid(-1.8) = 0.142
    assert combined(HELPFUL, SAFE, OBJECTIVES) == pytest.approx([-5.0, 3.0, -1.0, -1.8])
    assert combined(HELPFUL, SAFE, OBJECTIVES, threshold=0.14)[3] == pytest.approx(-1.0)
    assert combined(HELPFUL, SAFE, OBJECTIVES, threshold=0.0) == pytest.approx([3.0, 3.0, -1.0, -1.0])
    assert combined(HELPFUL, SAFE, OBJECTIVES, threshold=1.0) == pytest.approx(SAFE)
    assert combined([], [], []) == []


def test_the_threshold_is_a_probability_and_strict():
    at = torch.tensor(0.15).logit()
    below, above = (torch.nextafter(at, torch.tensor(side)) for side in (-9.0, 9.0))
    safety = torch.stack([below - 1e-4, above + 1e-4])
    decided = llama2_reward(torch.full((2,), 7.0), safety, torch.zeros(2, dtype=torch.bool))
    assert decided.tolist() == [safety[0].item(), 7.0]


def test_every_name_is_reported_and_one_decides(make_model):
    helpful, safe = make_model(1), make_model(2)
    rows = [{"objective": "helpfulness"}, {"objective": "safety"}, {}]
    both = RewardModels({"helpfulness": helpful, "safety": safe})
    scores = both(PROMPTS, ANSWERS, [True, True, False], rows)
    assert list(scores) == ["helpfulness", "safety", "combined"]
    assert scores["helpfulness"] == helpful.score(PROMPTS, ANSWERS, [True, True, False])
    assert scores["safety"] == safe.score(PROMPTS, ANSWERS, [True, True, False])
    assert scores["combined"][1] == scores["safety"][1]
    assert both.main == "combined"

    for names in (["helpfulness"], ["safety"], ["b", "a"], ["judge", "safety"]):
        models = RewardModels(dict(zip(names, (helpful, safe), strict=False)))
        assert list(models(PROMPTS, ANSWERS, None, rows)) == names
        assert models.main == names[0], "without the pair of Llama 2 the first one decides"


def test_models_are_loaded_by_name():
    loaded = RewardModels.load({"safety": "a", "helpfulness": "b"}, lambda path: path.upper(), 0.3)
    assert (loaded.models, loaded.threshold, loaded.main) == ({"safety": "A", "helpfulness": "B"}, 0.3, "combined")
    with pytest.raises(ValueError, match="models: found none"):
        RewardModels.load({}, str)

import pytest
import torch

from llama_align.sampling.scoring import RewardScorer

from .conftest import random_prompts


@pytest.mark.parametrize("max_tokens", [1, 100, 4096])
@pytest.mark.parametrize("pad", [0, 7])
def test_batches_score_as_single_sequences_do(reward_model, max_tokens, pad):
    sequences = random_prompts(30)
    reward_model.train()
    scores = RewardScorer(reward_model, pad_token_id=pad, max_tokens=max_tokens).score(sequences)
    assert reward_model.training
    reward_model.eval()
    with torch.no_grad():
        expected = [
            reward_model.score(reward_model.model(torch.tensor([ids])).last_hidden_state[0, -1]).item()
            for ids in sequences
        ]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_the_pad_token_may_end_a_sequence(reward_model):
    """TRL reads the score one token early where padding and terminator are one id."""
    sequences = [[4, 5, 0], [4, 5], [4, 5, 6, 7]]
    scores = RewardScorer(reward_model, pad_token_id=0).score(sequences)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    assert scores[:1] == pytest.approx(RewardScorer(reward_model, pad_token_id=0).score(sequences[:1]), abs=1e-5)


def test_sequences_that_cannot_be_scored_are_named(reward_model):
    scorer = RewardScorer(reward_model, pad_token_id=0)
    assert scorer.score([]) == []
    with pytest.raises(ValueError, match="sequence 1 has 0 tokens, expected 1 to 256"):
        scorer.score([[4], []])
    with pytest.raises(ValueError, match="sequence 0 has 257 tokens"):
        scorer.score([[4] * 257])

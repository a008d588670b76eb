import pytest
import torch

from llama_align.models import LlamaHerdConfig, LlamaHerdForSequenceClassification
from llama_align.rewards.scoring import RewardScorer
from llama_align.sampling.batches import packed_batches

from ..sampling.conftest import config, random_prompts


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


@pytest.mark.parametrize("max_tokens", [1, 150, 4096])
def test_neighbours_that_begin_alike_score_as_single_sequences_do(max_tokens):
    torch.manual_seed(0)
    fields = config(num_labels=1).to_diff_dict() | {"model_type": "llama_herd"}
    model = LlamaHerdForSequenceClassification(LlamaHerdConfig(**fields)).eval()
    prompts, answers = random_prompts(6, seed=1), random_prompts(40, seed=2)
    prompts[1] = prompts[0][:20] + prompts[1]
    sequences = [prompts[i // 8] + answer for i, answer in enumerate(answers)] + prompts + [prompts[0]] * 3
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits.item() for ids in sequences]
    assert RewardScorer(model, 0, max_tokens).score(sequences) == pytest.approx(expected, abs=1e-5)
    assert RewardScorer(model, 0, max_tokens).score([]) == []


def test_runs_share_what_saves_most():
    system, first, second = [1] * 16, [2] * 30, [3] * 30
    sequences = [system + first + [i] for i in range(4)] + [system + second + [i] for i in range(4)] + [[5], [6]]
    runs = [run for batch in packed_batches(sequences, 1000) for run in batch]
    assert [(run.first, run.count, run.shared, run.tokens) for run in runs] == [
        (0, 4, 46, 50),
        (4, 4, 46, 50),
        (8, 1, 0, 1),
        (9, 1, 0, 1),
    ]
    for bound in (1, 47, 48, 60):
        batches = list(packed_batches(sequences, bound))
        assert all(len(batch) == 1 or sum(run.tokens for run in batch) <= bound for batch in batches)
        assert [run.first for batch in batches for run in batch] == sorted(r.first for b in batches for r in b)
        assert sum(run.count for batch in batches for run in batch) == len(sequences)

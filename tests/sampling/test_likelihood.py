"""Log-likelihoods against cross entropy, one sequence at a time."""

import random

import pytest
import torch
import torch.nn.functional as F

from llama_align.sampling.batches import token_batches
from llama_align.sampling.likelihood import negative_log_likelihood

_draw = random.Random(3)
SEQUENCES = [[_draw.randrange(1, 97) for _ in range(_draw.randint(1, 50))] for _ in range(25)] + [[5], [7, 7]]


def one_by_one(model, ids):
    scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return F.cross_entropy(scores, torch.tensor(ids[1:]), reduction="sum").item() if len(ids) > 1 else 0.0


@pytest.mark.parametrize("max_tokens", [1, 49, 50, 137, 8192])
def test_equals_cross_entropy_however_batches_fall(model, max_tokens):
    sums, counts = negative_log_likelihood(model, SEQUENCES, max_tokens)
    assert counts == [len(ids) - 1 for ids in SEQUENCES]
    with torch.no_grad():
        assert sums == pytest.approx([one_by_one(model, ids) for ids in SEQUENCES], rel=1e-5, abs=1e-6)


def test_nothing_to_predict_sums_to_nothing(model):
    assert negative_log_likelihood(model, []) == ([], [])
    assert negative_log_likelihood(model, [[], [4]]) == ([0.0, 0.0], [0, 0])
    sums, counts = negative_log_likelihood(model, [[], [4, 5, 6], [4]])
    assert (sums[0], sums[2], counts) == (0.0, 0.0, [0, 2, 0])
    assert sums[1] > 0


def test_what_is_given_is_not_predicted(model):
    given = [max(1, len(ids) // 2) for ids in SEQUENCES]
    sums, counts = negative_log_likelihood(model, SEQUENCES, given=given)
    prompts, _ = negative_log_likelihood(model, [ids[:n] for ids, n in zip(SEQUENCES, given, strict=True)])
    whole, _ = negative_log_likelihood(model, SEQUENCES)
    assert counts == [len(ids) - n for ids, n in zip(SEQUENCES, given, strict=True)]
    assert sums == pytest.approx([a - b for a, b in zip(whole, prompts, strict=True)], rel=1e-4, abs=1e-4)


def test_padding_is_not_counted(model):
    short = [3, 1, 4]
    (alone,), _ = negative_log_likelihood(model, [short])
    (padded, _), _ = negative_log_likelihood(model, [short, list(range(1, 60))])
    assert padded == pytest.approx(alone, rel=1e-6)


def test_every_module_is_in_its_mode_afterwards_and_dropout_was_off(model):
    expected, _ = negative_log_likelihood(model, SEQUENCES)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.layers[0].eval()  # as frozen layers are
    modes = [module.training for module in model.modules()]
    assert negative_log_likelihood(model, SEQUENCES)[0] == pytest.approx(expected, rel=1e-6)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(IndexError):
        negative_log_likelihood(model, [[1, 10**6]])
    assert [module.training for module in model.modules()] == modes, "also after an error"
    assert all(weight.grad is None for weight in model.parameters())


def test_batches_hold_every_index_once_and_stay_within_the_bound():
    lengths = [3, 0, 12, 5, 5, 1, 30, 7]
    for bound in (1, 5, 12, 31, 1000):
        batches = list(token_batches(lengths, bound))
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound
    assert list(token_batches([], 5)) == []

"""Rows of a padded batch as one row of segments: the same states, scores and gradients, every prompt once."""

import random

import pytest
import torch

from llama_align import (
    LlamaHerdConfig,
    LlamaHerdForCausalLM,
    LlamaHerdForSequenceClassification,
    LlamaHerdForTokenClassification,
)
from llama_align.kernels import Segments
from llama_align.models.sharing import can_share, common_length, share_prompts

FIELDS = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "num_labels": 1,
}


def model_of(kind=LlamaHerdForCausalLM, attention: str = "sdpa", **changes):
    torch.manual_seed(0)
    return kind._from_config(LlamaHerdConfig(**FIELDS | changes), attn_implementation=attention).double().eval()


def batch_of(seed: int, left: bool):
    """Rows over few prompts, padded as PPO pads them (prompts left, answers right) or on the right alone."""
    draw = random.Random(seed)
    prompts = [[draw.randint(1, 40) for _ in range(draw.randint(1, 7))] for _ in range(3)]
    rows = []
    for _ in range(7):
        prompt = draw.choice(prompts)
        rows.append((prompt, [draw.randint(1, 3) for _ in range(draw.randint(1, 6))]))
    widest, longest = max(len(p) for p, _ in rows), max(len(a) for _, a in rows)
    ids = torch.zeros(7, widest + longest, dtype=torch.long)
    mask, answers = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        at = widest - len(prompt) if left else 0
        end = at + len(prompt) + len(answer)
        ids[i, at:end] = torch.tensor(prompt + answer)
        mask[i, at:end] = 1
        answers[i, at + len(prompt) : end] = True
    return ids, mask, answers


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_states_and_gradients_equal_those_of_the_padded_rows(seed, left):
    model = model_of()
    ids, mask, answers = batch_of(seed, left)
    weights = torch.randn(*ids.shape, 24, dtype=torch.float64) * mask[..., None]
    results = []
    shared = share_prompts(ids, mask, answers)
    assert shared.input_ids.shape[1] < mask.sum()  # something was shared
    for hidden in (
        model.model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).last_hidden_state,
        model.model(shared.input_ids, segments=shared.segments).last_hidden_state[0][shared.where_BL],
    ):
        (hidden * weights).sum().backward()
        results.append((hidden[mask.bool()], [w.grad.clone() for w in model.model.parameters()]))
        model.zero_grad()
    (expected, expected_gradients), (found, found_gradients) = results
    assert (found - expected).abs().max() < 1e-10
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert (a - b).abs().max() < 1e-10


def test_without_answers_every_row_is_a_document():
    ids, mask, _ = batch_of(0, left=False)
    shared = share_prompts(ids, mask)
    assert shared.segments == Segments.documents(mask.sum(1).tolist())
    assert shared.input_ids[0].tolist() == ids[mask.bool()].tolist()


def test_answers_share_what_they_begin_with_and_keep_a_token_of_their_own():
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 0], [5, 6, 7, 8, 9]])
    mask = (ids != 0).long()
    answers = torch.tensor([[False, False, True, True, True]] * 3) & mask.bool()
    shared = share_prompts(ids, mask, answers)
    assert shared.segments.lengths == (3, 2, 1, 2)
    assert shared.input_ids[0].tolist() == [5, 6, 7, 8, 9, 8, 8, 9]
    assert shared.last_B.tolist() == [1, 2, 3]
    assert shared.input_ids[0][shared.where_BL][mask.bool()].tolist() == ids[mask.bool()].tolist()


def test_common_length():
    assert common_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_length([[1, 2], [1, 2]]) == 1
    assert common_length([[1], [2]]) == 0


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 0, 0]]])
def test_a_mask_with_holes_is_refused(mask):
    with pytest.raises(ValueError, match="attention_mask: found padding between tokens"):
        share_prompts(torch.ones(1, 3, dtype=torch.long), torch.tensor(mask))


def test_every_segment_has_its_score():
    model = model_of(LlamaHerdForSequenceClassification)
    ids, mask, answers = batch_of(2, left=False)
    shared = share_prompts(ids, mask, answers)
    expected = model(ids, attention_mask=mask).logits
    found = model(shared.input_ids, segments=shared.segments).logits[shared.last_B]
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("kind", [LlamaHerdForCausalLM, LlamaHerdForTokenClassification])
def test_eager_attention_takes_segments_through_a_dense_mask(kind):
    ids, mask, answers = batch_of(3, left=False)
    shared = share_prompts(ids, mask, answers)
    found, expected = (
        model_of(kind, attention)(shared.input_ids, segments=shared.segments).logits for attention in ("eager", "sdpa")
    )
    assert (found - expected).abs().max() < 1e-5  # its softmax is in float32


def test_segments_in_several_rows_and_with_checkpointing():
    model = model_of().train()
    segments = Segments.groups([(3, [2, 1]), (4, [1, 1])])
    ids = torch.randint(1, 41, (2, 6))
    rows = [model.model(ids, segments=segments).last_hidden_state]
    model.gradient_checkpointing_enable()
    rows.append(model.model(ids, segments=segments).last_hidden_state)
    gradients = [torch.autograd.grad(row.square().sum(), model.model.layers[0].mlp.up_proj.weight)[0] for row in rows]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(gradients[0], gradients[1])


def test_dropout_on_attention_and_other_implementations_cannot_share():
    assert can_share(model_of())
    assert not can_share(model_of(attention="eager"))
    assert not can_share(model_of(attention_dropout=0.1).train())


def test_what_does_not_go_with_segments_is_refused():
    model, ids, segments = model_of(), torch.ones(1, 5, dtype=torch.long), Segments.documents([2, 3])
    with pytest.raises(ValueError, match="segments: found an attention_mask or a cache of 0 tokens"):
        model(ids, attention_mask=torch.ones_like(ids), segments=segments)
    with pytest.raises(ValueError, match="segments: found an attention_mask or a cache of 5 tokens"):
        model(ids, past_key_values=model(ids).past_key_values, segments=segments)
    with pytest.raises(ValueError, match="segments: found labels beside them"):
        model(ids, labels=ids, segments=segments)
    with pytest.raises(ValueError, match="found 5 tokens, expected 1 rows of 4"):
        model.model.layers[0].self_attn(
            torch.zeros(1, 4, 24, dtype=torch.float64),
            position_embeddings=model.model.rotary_emb(torch.zeros(1, 4, 24), torch.arange(4)[None]),
            segments=segments,
        )

"""Losses under a head the fused kernel may not read, and the model's loss in training against transformers'."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from llama_align.kernels import Linear
from llama_align.models.head import labelled, losses_of, mean_loss, owns_weight, scores_of
from llama_align.trainers.heads import attach_head

from .test_against_transformers import ids_of, random_fields, twins


def head_of(size: int = 8, vocabulary: int = 19) -> Linear:
    torch.manual_seed(0)
    return Linear(size, vocabulary, bias=False).double()


def called_as_module(head):
    head.register_forward_hook(lambda *_: None)
    return head


def test_heads_that_something_else_took_over_are_called_as_modules():
    assert owns_weight(head_of())
    assert owns_weight(torch.nn.Linear(4, 9, bias=False))
    assert not owns_weight(torch.nn.Linear(4, 9))
    assert not owns_weight(called_as_module(head_of()))
    _, ours = twins(random_fields(0))
    adapted = get_peft_model(ours, LoraConfig(r=2, target_modules=["lm_head"])).get_base_model()
    assert not owns_weight(adapted.lm_head)


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_ways_give_equal_losses_and_gradients(count, weighted, monkeypatch):
    monkeypatch.setattr("llama_align.models.head.MODULE_CHUNK", 2)
    hidden = torch.randn(count, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(19, (count,))
    weights = torch.rand(count, dtype=torch.float64) if weighted else None
    results = []
    for head in (head_of(), called_as_module(head_of())):
        losses = losses_of(head, hidden, targets, weights_N=weights, z_loss=1e-3, scale=0.5, metrics=True)
        scores = scores_of(head, hidden, targets, entropy=True, metrics=True)
        total = losses.losses.sum() + scores.entropy.sum() + 2 * scores.log_probs.sum()
        results.append([*losses, *scores[:2], *scores[3:], *torch.autograd.grad(total, (hidden, head.weight))])
    for fused, by_module in zip(*results, strict=True):
        assert fused.shape == by_module.shape
        torch.testing.assert_close(fused, by_module, atol=1e-10, rtol=0)


def test_labelled_states_are_those_before_the_labels():
    hidden = torch.arange(6.0).view(2, 3, 1)
    labels = torch.tensor([[7, -100, 8], [-100, 9, -100]])
    states, targets, where = labelled(hidden, labels)
    assert (states.flatten().tolist(), targets.tolist(), where.tolist()) == ([1.0, 3.0], [8, 9], [1, 3])
    assert labelled(hidden, labels, shifted=True)[2].tolist() == [0, 2, 4]


@pytest.mark.parametrize("items", [None, 50, torch.tensor(50)])
@pytest.mark.parametrize("seed", [0, 3, 8])
def test_the_loss_in_training_is_that_of_llama(seed, items):
    theirs, ours = (model.double().train() for model in twins(random_fields(seed), "sdpa"))
    ids = ids_of(3, 17, seed)
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.4, -100)
    expected = theirs(ids, labels=labels, num_items_in_batch=items).loss
    out = ours(ids, labels=labels, num_items_in_batch=items)
    assert out.logits is None
    # transformers computes its loss in float32
    assert abs(out.loss - expected) < 1e-5
    expected.backward()
    out.loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert (weight.grad - gradients[name].grad).abs().max() < 1e-6, name


def test_who_wants_logits_gets_them():
    _, ours = twins(random_fields(1))
    ids = ids_of(2, 9)
    assert ours.eval()(ids, labels=ids).logits.shape == (2, 9, 67)
    assert ours.train()(ids).logits.shape == (2, 9, 67)
    assert ours(ids, labels=ids[:, -4:], logits_to_keep=4).logits.shape == (2, 4, 67)
    ours.loss_function = lambda logits, labels, vocab_size, **_: logits.sum()
    out = ours(ids, labels=ids)
    assert out.loss == out.logits.sum()


@pytest.mark.parametrize("training", [True, False])
def test_token_weights_and_z_loss(training):
    _, ours = twins(random_fields(1))
    ours = ours.double().train(training)
    ids = ids_of(2, 9)
    weights = torch.rand(2, 9, dtype=torch.float64)
    with torch.no_grad():
        logits = ours.eval()(ids).logits[:, :-1]
        ours.train(training)
        found = ours(ids, labels=ids, token_weights=weights, z_loss=0.01).loss
    nll = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    expected = (weights[:, 1:].float().double() * (nll + 0.01 * logits.logsumexp(-1) ** 2)).mean()
    assert abs(found - expected) < 1e-6


def test_labels_already_moved():
    _, ours = twins(random_fields(1))
    ids = ids_of(2, 9)
    moved = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert torch.equal(ours.train()(ids, labels=ids).loss, ours(ids, labels=ids, shift_labels=moved).loss)
    hidden = ours.model(ids).last_hidden_state
    assert mean_loss(ours.lm_head, hidden, ids).item() == pytest.approx(ours(ids, labels=ids).loss.item())


@pytest.mark.parametrize("length", [17, 150])
def test_under_autocast_losses_and_gradients_are_close_to_float32(length):
    _, ours = twins(random_fields(2) | {"max_position_embeddings": 256})
    ours.train().config._attn_implementation = "sdpa"
    ids, results = ids_of(2, length), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = ours(ids, labels=ids).loss
        loss.backward()
        results.append((loss.item(), [w.grad.clone() for w in ours.parameters()]))
        ours.zero_grad()
    (expected, expected_gradients), (found, found_gradients) = results
    assert found == pytest.approx(expected, rel=5e-3)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.1 * b.norm()


def test_label_smoothing_and_the_trainers_own_checks_know_the_model(tmp_path):
    from transformers.trainer_pt_utils import LabelSmoother

    theirs, ours = twins(random_fields(1))
    losses = []
    for model in (theirs, ours):
        arguments = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to="none")
        trainer = Trainer(model=model.train(), args=arguments)
        assert isinstance(trainer.label_smoother, LabelSmoother)
        ids = ids_of(2, 9)
        losses.append(trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()}).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_another_activation_in_place_of_silu_is_used():
    theirs, ours = twins(random_fields(1))
    for model in (theirs, ours):
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.ReLU()
    ids = ids_of(2, 9)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attached", [False, True])
def test_hooks_weights_and_copies_of_the_head_count(attached):
    _, ours = twins(random_fields(1))
    ids, seen = ids_of(2, 9), []
    if attached:
        attach_head(ours)
        attach_head(ours)
    copied = copy.deepcopy(ours)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    assert copied(ids).logits.abs().max() == 0 < ours(ids).logits.abs().max()
    ours.lm_head.register_full_backward_hook(lambda *_: seen.append(1))
    ours.train()(ids, labels=ids).loss.backward()
    assert seen


def test_the_loss_of_other_weights_through_functional_call():
    _, ours = twins(random_fields(1))
    ids = ids_of(2, 9)
    others = {name: (weight.detach() * 0.5).requires_grad_() for name, weight in ours.named_parameters()}
    loss = torch.func.functional_call(ours.train(), others, kwargs={"input_ids": ids, "labels": ids}).loss
    gradients = torch.autograd.grad(loss, list(others.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_attention_that_is_not_causal_is_left_to_transformers():
    theirs, ours = twins(random_fields(1), "sdpa")
    ids = ids_of(2, 9)
    for model in (theirs, ours):
        model.config.is_causal = False
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)

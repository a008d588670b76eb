"""The chunked head against the full logits: losses, scores and gradients, in several chunks and blocks."""

import pytest
import torch

from llama_align.kernels import (
    cross_entropy,
    cross_entropy_reference,
    head,
    scores,
    token_scores,
    token_scores_reference,
)


def pieces(count: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


@pytest.fixture(autouse=True, params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    if request.param == "many chunks":
        for module in (head, scores):
            monkeypatch.setattr(module, "_chunks", lambda count, _: pieces(count, 5))
            monkeypatch.setattr(module, "_row_blocks", lambda logits: pieces(len(logits), 2))
        monkeypatch.setattr(head, "COLUMNS", 7)


def inputs(dtype=torch.float64, count: int = 23, size: int = 11, vocabulary: int = 37):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (count,), generator=generator)


def per_token(count: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found, expected, bound=1e-10):
    assert (found.double() - expected.double()).abs().max() < bound * max(1.0, expected.double().abs().max().item())


@pytest.mark.parametrize("upstream", ["sum", "scaled sum", "mean", "by token"])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_gradients_equal_the_full_logits(weighted, z_loss, upstream):
    hidden, weight, targets = inputs()
    count = len(targets)
    weights = per_token(count, 1).abs() if weighted else None
    outer = {
        "sum": torch.ones(count),
        "scaled sum": torch.full((count,), 0.25),
        "mean": torch.full((count,), 1 / count),
        "by token": per_token(count, 2),
    }[upstream]
    results = []
    for out in (
        cross_entropy_reference(hidden @ weight.T, targets, weights, z_loss, True),
        cross_entropy(hidden, weight, targets, weights, z_loss, True, scale=0.25),
    ):
        results.append((out, torch.autograd.grad((out.losses * outer).sum(), (hidden, weight))))
    (expected, expected_gradients), (found, found_gradients) = results
    close(found.losses, expected.losses)
    close(found.entropy, expected.entropy)
    assert torch.equal(found.is_top1, expected.is_top1)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        close(a, b)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
@pytest.mark.parametrize("upstream", ["sum", "by token"])
def test_a_frozen_side_gets_no_gradient(frozen, upstream):
    hidden, weight, targets = inputs()
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    other = weight if frozen == "hidden" else hidden
    outer = torch.ones(23) if upstream == "sum" else per_token(23, 2)
    for function in (cross_entropy, token_scores):
        losses = function(hidden, weight, targets)[0]
        (gradient,) = torch.autograd.grad((losses * outer).sum(), other)
        sign = 1 if function is cross_entropy else -1
        reference = cross_entropy_reference(hidden @ weight.T, targets).losses
        close(sign * gradient, torch.autograd.grad((reference * outer).sum(), other)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("fields", [("log_probs",), ("entropy",), ("kl",), ("log_probs", "entropy", "kl")])
def test_scores_and_gradients_equal_the_full_logits(fields, temperature):
    hidden, weight, targets = inputs()
    with torch.no_grad():
        reference = (hidden[:, :7] * 1.3, weight[:, :7] + 0.1)
    results = []
    options = {"temperature": temperature, "entropy": True, "metrics": True}
    for out in (
        token_scores_reference(hidden @ weight.T, targets, reference_NV=reference[0] @ reference[1].T, **options),
        token_scores(hidden, weight, targets, reference=reference, **options),
    ):
        total = sum((getattr(out, field) * per_token(23, i)).sum() for i, field in enumerate(fields))
        results.append((out, torch.autograd.grad(total, (hidden, weight))))
    (expected, expected_gradients), (found, found_gradients) = results
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        close(a, b)


def test_only_what_was_asked_for_is_returned():
    hidden, weight, targets = inputs()
    out = token_scores(hidden, weight, targets)
    assert out.entropy is out.kl is out.mean_logits is out.is_top1 is None
    assert cross_entropy(hidden, weight, targets).entropy is None


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_within_its_rounding(dtype, bound):
    hidden, weight, targets = inputs(dtype, count=60, size=64, vocabulary=300)
    exact = [x.detach().double().div(8).requires_grad_() for x in (hidden, weight)]
    low = [x.detach().div(8).requires_grad_() for x in (hidden, weight)]
    for function, reference in ((cross_entropy, cross_entropy_reference), (token_scores, token_scores_reference)):
        expected, found = reference(exact[0] @ exact[1].T, targets)[0], function(*low, targets)[0]
        assert found.dtype == torch.float32
        close(found, expected, bound)
        wanted = torch.autograd.grad(expected.sum(), exact)
        for a, b in zip(torch.autograd.grad(found.sum(), low), wanted, strict=True):
            assert a.dtype == dtype
            assert (a.double() - b).abs().max() < bound * b.abs().max()


def test_no_token_at_all_gives_zero_gradients():
    hidden, weight, targets = inputs()
    for function in (cross_entropy, token_scores):
        losses = function(hidden[:0], weight, targets[:0])[0]
        gradients = torch.autograd.grad(losses.sum(), (hidden, weight))
        assert all(not gradient.any() for gradient in gradients)


def test_no_gradients_are_made_where_none_are_wanted(monkeypatch):
    hidden, weight, targets = inputs()
    monkeypatch.setattr(head._Gradients, "add", lambda *_: pytest.fail("a gradient nobody asked for"))
    with torch.no_grad():
        assert not cross_entropy(hidden, weight, targets).losses.requires_grad
        assert not token_scores(hidden, weight, targets).log_probs.requires_grad


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**16])
def test_float16_gradients_of_a_mean_over_many_tokens_survive(loss_scale):
    hidden, weight, targets = inputs(torch.float16)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    factor = loss_scale / 1e6
    losses = cross_entropy(hidden, weight, targets, scale=1e-6).losses
    found = torch.autograd.grad((losses * factor).sum(), (hidden, weight))
    wanted = torch.autograd.grad((cross_entropy_reference(exact[0] @ exact[1].T, targets).losses * factor).sum(), exact)
    for a, b in zip(found, wanted, strict=True):
        # what float16 cannot hold is lost, nothing else
        assert (a.double() - b).abs().max() < 5e-3 * b.abs().max() + 1e-7

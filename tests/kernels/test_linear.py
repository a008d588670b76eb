"""The routed linear layer against its plain reference."""

import threading

import pytest
import torch

from llama_align.kernels import Linear, linear, linear_reference, routed


@pytest.fixture
def open_route(monkeypatch):
    """The route, whatever this processor is, unless its products are not float32 here."""
    monkeypatch.setenv(linear.SETTING, "onednn")
    monkeypatch.setattr(linear, "LEAST_WORK", 0)
    routed.cache_clear()
    yield
    routed.cache_clear()


def test_the_setting(monkeypatch):
    monkeypatch.setenv(linear.SETTING, "plain")
    routed.cache_clear()
    assert not routed()
    monkeypatch.setenv(linear.SETTING, "fast")
    routed.cache_clear()
    with pytest.raises(ValueError, match="found 'fast', expected auto, onednn or plain"):
        routed()
    monkeypatch.undo()
    routed.cache_clear()


@pytest.mark.parametrize("shape", [(3, 17, 64), (1, 1, 8), (4, 1, 8), (2, 100, 130)])
def test_forward_and_gradients_equal_the_reference(open_route, shape):
    torch.manual_seed(0)
    layer = Linear(shape[-1], 48, bias=False)
    x = torch.randn(shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    y, z = layer(ours), linear_reference(theirs, weight)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    z.backward(gradient)
    for a, b in ((y, z), (ours.grad, theirs.grad), (layer.weight.grad, weight.grad)):
        assert (a - b).abs().max() <= 4e-6 * b.abs().max()


def test_the_permission_is_taken_back(open_route):
    before = torch.backends.mkldnn.matmul.fp32_precision
    layer = Linear(8, 8, bias=False)
    layer(torch.randn(4, 8, requires_grad=True)).sum().backward()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        layer(torch.randn(4, 9))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_small_products_take_the_plain_path(monkeypatch, open_route):
    monkeypatch.setattr(linear, "LEAST_WORK", 1 << 20)
    layer = Linear(512, 2048, bias=False)
    assert [layer._routes(torch.randn(rows, 512)) for rows in (1, 3, 4)] == [False, False, True]
    assert not Linear(64, 64, bias=False)._routes(torch.randn(255, 64))
    assert Linear(64, 64, bias=False)._routes(torch.randn(256, 64))


@pytest.mark.parametrize(("dtype", "bias"), [(torch.float64, False), (torch.bfloat16, False), (torch.float32, True)])
def test_other_types_and_layers_with_a_bias_take_the_plain_path(open_route, dtype, bias):
    layer = Linear(8, 8, bias=bias, dtype=dtype)
    x = torch.randn(2, 8, dtype=dtype)
    assert not layer._routes(x)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_autocast_takes_the_plain_path(open_route):
    layer = Linear(8, 8, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16


def test_threads_that_overlap_leave_the_setting_as_it_was():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    first, second = threading.Event(), threading.Event()

    def hold(mine, other):
        with linear._permission:
            mine.set()
            other.wait(10)

    threads = [threading.Thread(target=hold, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert matmul.fp32_precision == before


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_a_frozen_side_is_not_kept(frozen):
    x, layer = torch.randn(5, 8, requires_grad=frozen == "weight"), Linear(8, 6, bias=False)
    layer.weight.requires_grad_(frozen == "input")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        layer(x).sum().backward()
    assert sum(kept) <= (48 if frozen == "weight" else 40)

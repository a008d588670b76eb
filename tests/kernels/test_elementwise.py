"""RMSNorm and SwiGLU against plain PyTorch: equal outputs bit for bit, gradients to rounding, less kept."""

import pytest
import torch

from llama_align.kernels import rms_norm, rms_norm_reference, swiglu, swiglu_reference

DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]


def kernels(name: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(3, 5, 24, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)
    )
    if name == "swiglu":
        return swiglu, swiglu_reference, (x, y), ()
    return rms_norm, rms_norm_reference, (x, y[0, 0].detach().requires_grad_()), (1e-5,)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("name", ["rms_norm", "swiglu"])
def test_outputs_are_equal_and_gradients_to_rounding(name, dtype, bound):
    kernel, reference, tensors, rest = kernels(name, dtype)
    found, expected = kernel(*tensors, *rest), reference(*tensors, *rest)
    assert torch.equal(found, expected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    wanted = torch.autograd.grad((reference(*exact, *rest) * weights).sum(), exact)
    for a, b in zip(torch.autograd.grad((found * weights.to(dtype)).sum(), tensors), wanted, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() < bound * b.abs().max()


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("name", ["rms_norm", "swiglu"])
def test_a_frozen_input_costs_the_other_nothing(name, frozen):
    kernel, reference, tensors, rest = kernels(name, torch.float64)
    tensors[frozen].requires_grad_(False)
    found, expected = (
        torch.autograd.grad(function(*tensors, *rest).square().sum(), tensors[1 - frozen])[0]
        for function in (kernel, reference)
    )
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["rms_norm", "swiglu"])
def test_less_is_kept_in_low_precision(name):
    kernel, reference, tensors, rest = kernels(name, torch.bfloat16)
    kept = []
    for function in (kernel, reference):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x):
            function(*tensors, *rest)
        kept.append(sum(sizes))
    assert kept[0] < 0.7 * kept[1]

"""RMSNorm and SwiGLU that keep less for the backward pass than autograd would: inputs alone, in the model's precision.

PyTorch's own operations keep float32 copies, normalised values and silu(gate) too.

Shape suffixes: D hidden size.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm_reference(x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 at least (Zhang and Sennrich, 2019)."""
    exact = _exact(x)
    scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    return weight_D * (exact * scale).to(x.dtype)


def rms_norm(x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm_reference`, equal bit for bit, keeping x and one number for each token."""
    return _RMSNorm.apply(x, weight_D, eps) if torch.is_grad_enabled() else rms_norm_reference(x, weight_D, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_D, eps):
        exact = _exact(x)
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight_D, scale)
        return weight_D * (exact * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight_D, scale = ctx.saved_tensors
        normed, exact = _exact(x) * scale, _exact(gradient)
        to_x = to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (exact * normed).flatten(0, -2).sum(0).to(weight_D.dtype)
        if ctx.needs_input_grad[0]:
            exact = exact * weight_D
            along = torch.linalg.vecdot(exact, normed).unsqueeze(-1) / x.shape[-1]
            to_x = torch.addcmul(exact, normed, along, value=-1).mul_(scale).to(x.dtype)
        return to_x, to_weight, None


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (Shazeer, 2020)."""
    return F.silu(gate) * up


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`swiglu_reference`, equal bit for bit, keeping gate and up."""
    return _SwiGLU.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate).mul_(up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)

"""Float32 linear layers through oneDNN on processors with AVX-512.

PyTorch multiplies float32 matrices with MKL, which takes a slow path on some of these processors. oneDNN has an AVX-512
float32 kernel; the only way to it is `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`, a permission that it uses
only where the processor has AMX. So the route is closed on processors with AMX, its error is checked once at start, and
the permission holds for linear layers alone: left on, it slows the small tiles of attention.

The setting is the environment variable LLAMA_ALIGN_CPU_LINEARS: `auto` (default), `onednn` or `plain`.
"""

import os
import threading
from contextlib import nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

SETTING = "LLAMA_ALIGN_CPU_LINEARS"
FEWEST_ROWS, LEAST_WORK = 4, 1 << 20  # multiply-adds: below, oneDNN's calls cost more than its products save
LARGEST_ERROR = 2e-6  # of a product, relative to its largest entry; float32 through MKL has about 5e-7

_matmul = torch.backends.mkldnn.matmul


class _Permission:
    """The setting is the process's: threads that overlap hold it together, and the last one out puts it back."""

    def __init__(self):
        self.lock, self.holders, self.before = threading.Lock(), 0, "none"

    def __enter__(self):
        with self.lock:
            if self.holders == 0:
                self.before, _matmul.fp32_precision = _matmul.fp32_precision, "bf16"
            self.holders += 1

    def __exit__(self, *_):
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                _matmul.fp32_precision = self.before


_permission = _Permission()


@cache
def routed() -> bool:
    """Whether float32 linear layers on the CPU go through oneDNN, decided once.

    Raises:
        ValueError: an unknown value of the setting.
    """
    setting = os.environ.get(SETTING, "auto")
    if setting not in ("auto", "onednn", "plain"):
        raise ValueError(f"{SETTING}: found {setting!r}, expected auto, onednn or plain")
    if setting == "plain" or not torch.backends.mkldnn.is_available():
        return False
    fits = torch.cpu._is_avx512_supported() and not torch.cpu._is_amx_tile_supported()
    return (fits or setting == "onednn") and _error() < LARGEST_ERROR


def _error() -> float:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _permission:
        product = a @ b
    return ((product - exact).abs().max() / exact.abs().max()).item()


def fast_products(*operands: torch.Tensor, if_worth: bool = True):
    """A context in which matrix products of these operands take the route, if it is open to them."""
    plain = if_worth and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in operands)
    return _permission if plain and routed() else nullcontext()


def worth_routing(x: torch.Tensor, outputs: int) -> bool:
    """Whether oneDNN is the faster for x [..., I] times a matrix of [I, outputs]."""
    return x.numel() * outputs >= LEAST_WORK and x.numel() >= FEWEST_ROWS * x.shape[-1]


def linear_reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [..., I] times the transpose of weight [O, I]."""
    return F.linear(x, weight)


class _RoutedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        # a frozen side, as under LoRA, costs the other nothing
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        with _permission:
            return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        with _permission:
            if ctx.needs_input_grad[0]:
                to_x = gradient @ weight
            if ctx.needs_input_grad[1]:
                to_weight = gradient.reshape(-1, gradient.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        return to_x, to_weight


class Linear(nn.Linear):
    """`nn.Linear`, routed where that applies: float32 on the CPU, large enough a product, no bias, no autocast,
    compilation or torch.func."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._routes(x):
            if torch.is_grad_enabled():
                return _RoutedLinear.apply(x, self.weight)
            with _permission:
                return F.linear(x, self.weight)
        return super().forward(x)

    def _routes(self, x: torch.Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and worth_routing(x, self.out_features)
            and x.dtype == self.weight.dtype == torch.float32
            and self.bias is None
            and type(self.weight) is nn.Parameter
            and not torch.is_autocast_enabled("cpu")
            and not torch._C._are_functorch_transforms_active()
            and routed()
        )


def plain(model: nn.Module) -> nn.Module:
    """Makes every `Linear` of a model an `nn.Linear` in place; quantisers replace modules of exactly that class."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return model

"""Counter-based random numbers: a uniform is a hash of what it is for, so no draw depends on any other.

Suffixes: N answers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(x: int) -> int:
    """The 64-bit two's complement reading of x, which is what an int64 tensor holds."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


_STEP = _signed(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al., 2014), a bijection of 64-bit integers."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def _child(state: Tensor, index: Tensor | int) -> Tensor:
    offset = _signed((index + 1) * _STEP) if isinstance(index, int) else (index + 1) * _STEP
    return _mix(_mix(state) + offset)


def answer_streams(
    seed: int, keys: Sequence[int], answers: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return streams_N (int64): the random stream of answer `answers[i]` to the prompt with key `keys[i]`."""
    keys_N, answers_N = (
        torch.tensor([_signed(x) for x in values], dtype=torch.int64, device=device) for values in (keys, answers)
    )
    return _child(_child(torch.full_like(keys_N, _signed(seed)), keys_N), answers_N)


def uniforms(streams_N: Tensor, steps_N: Tensor | int, attempt: int = 0) -> Tensor:
    """Return u_N (float64, in [0, 1)) for one attempt at one step of each stream."""
    return _shift(_child(_child(streams_N, steps_N), attempt), 11).double() * 2.0**-53

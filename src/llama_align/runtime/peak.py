"""Peak FLOP/s of a device: what a known accelerator's data sheet says, or what a processor is measured to reach."""

import math
import os
import time
from functools import cache

import torch

from ..kernels import Linear
from ..sizes.devices import known_peak

SETTING = "LLAMA_ALIGN_PEAK_FLOPS"


def measured_peak(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of this process's CPU threads in the largest square product that is quick: the best of a few runs.

    Runs once per process, dtype and number of threads, for a few hundred milliseconds, through the linear layers that
    models use. It is a measurement: a processor busy with something else gives a low one, and a utilisation above 1.
    """
    return _measure(dtype, torch.get_num_threads())


@cache
def _measure(dtype: torch.dtype, threads: int) -> float:
    best = 0.0
    for size in (512, 1024, 2048):
        x = torch.ones(size, size, dtype=dtype)
        # random weights would move the generator that training draws from
        layer = torch.nn.utils.skip_init(Linear, size, size, bias=False, dtype=dtype)
        with torch.no_grad():
            layer.weight.fill_(1)
            seconds = min(_seconds(layer, x) for _ in range(4))
        best = max(best, 2 * size**3 / seconds)
        if seconds > 0.02:  # the next size takes eight times as long
            break
    return best


def _seconds(layer: Linear, x: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start


def peak_flops(device: torch.device, dtype: torch.dtype = torch.bfloat16, given: float | None = None) -> float | None:
    """Peak FLOP/s of one device: `given`, or the environment variable LLAMA_ALIGN_PEAK_FLOPS, or found out.

    An accelerator's is that of dense bfloat16 products whatever the dtype, as in published utilisation figures. A CPU's
    is the measured throughput of a large product in `dtype`. None for an accelerator that is not in the table.

    Raises:
        ValueError: a given value that is no positive number.
    """
    for where, value in (("peak_flops", given), (SETTING, os.environ.get(SETTING))):
        if value is not None:
            return _number(where, value)
    if device.type == "cpu":
        return measured_peak(dtype)
    return known_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _number(where: str, value: float | str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{where}: found {value!r}, expected the FLOP/s of one device, such as 989e12")
    return number

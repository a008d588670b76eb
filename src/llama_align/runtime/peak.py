"""Peak FLOP/s of a device: what a known accelerator's data sheet says, or what a processor is measured to reach."""

import math
import os
import re
import time
from functools import cache

import torch

from ..kernels import Linear

SETTING = "LLAMA_ALIGN_PEAK_FLOPS"

# bfloat16 with float32 accumulation, dense; where a data sheet gives the figure "with sparsity", half of it
KNOWN: tuple[tuple[str, float], ...] = (
    (r"A100", 312e12),  # NVIDIA A100 data sheet: SXM and PCIe, 40 and 80 GB
    (r"H100 PCIe", 756e12),  # NVIDIA H100 data sheet: 1,513 with sparsity
    (r"H100 NVL", 835e12),  # NVIDIA H100 data sheet: 1,671 with sparsity
    (r"H100", 989e12),  # NVIDIA H100 data sheet, SXM ("H100 80GB HBM3"): 1,979 with sparsity
    (r"H200 NVL", 835e12),  # NVIDIA H200 data sheet: 1,671 with sparsity
    (r"H200", 989e12),  # NVIDIA H200 data sheet, SXM: 1,979 with sparsity
    (r"B200", 2.25e15),  # NVIDIA HGX B200 data sheet: 36 PFLOP/s of eight, with sparsity
    (r"L4", 121e12),  # NVIDIA L4 data sheet: 242 with sparsity
    (r"L40S", 362e12),  # NVIDIA L40S data sheet: 362.05, 733 with sparsity
    (r"A10", 125e12),  # NVIDIA A10 data sheet: 250 with sparsity
    (r"RTX 4090", 165.2e12),  # NVIDIA Ada architecture white paper, appendix A
    (r"MI300X", 1307.4e12),  # AMD Instinct MI300X data sheet
)
# names that hold a known one and mean less of a chip: a slice of it, or another chip
OTHER = re.compile(r"\b(MIG|Laptop|4090 D|Max-Q)\b", re.IGNORECASE)


def known_peak(name: str) -> float | None:
    """FLOP/s in bfloat16 of an accelerator by the name its driver gives it; None where it is not in the table."""
    if OTHER.search(name):
        return None
    return next((peak for pattern, peak in KNOWN if re.search(rf"\b{pattern}\b", name, re.IGNORECASE)), None)


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

"""Peak FLOP/s of known accelerators, as their data sheets have it."""

import re

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

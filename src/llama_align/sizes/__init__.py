"""What follows from a model's sizes by arithmetic: parameters, FLOPs, bytes, hours and budgets. Nothing is measured.

Knows numbers alone, and imports neither torch nor transformers.
"""

from .published import PRESETS, Shape, shape

__all__ = ["PRESETS", "Shape", "shape"]

"""Pairs of answers graded by annotators: the sandbox's exact judge with noise, or reward models."""

from .drawing import draw_pairs
from .options import AnnotatorOptions
from .pairs import (
    LEFT_OUT,
    Annotate,
    Annotated,
    check_tasks,
    judge_annotator,
    pick_pairs,
    reward_annotator,
    safety_bins,
    take_turns,
)

__all__ = [
    "LEFT_OUT",
    "Annotate",
    "Annotated",
    "AnnotatorOptions",
    "check_tasks",
    "draw_pairs",
    "judge_annotator",
    "pick_pairs",
    "reward_annotator",
    "safety_bins",
    "take_turns",
]

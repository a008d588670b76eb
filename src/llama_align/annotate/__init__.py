"""Pairs of answers graded by annotators: the sandbox's exact judge with noise, or reward models."""

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
    "check_tasks",
    "judge_annotator",
    "pick_pairs",
    "reward_annotator",
    "safety_bins",
    "take_turns",
]

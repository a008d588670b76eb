"""Pairs of answers graded by an annotator: the sandbox's exact judge with noise, or reward models."""

from .pairs import Annotate, check_tasks, judge_annotator, pick_pairs, reward_annotator, take_turns

__all__ = ["Annotate", "check_tasks", "judge_annotator", "pick_pairs", "reward_annotator", "take_turns"]

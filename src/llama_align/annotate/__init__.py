"""Pairs of answers graded by an annotator: the sandbox's exact judge with noise, or reward models."""

from .pairs import judge_annotator, pick_pair, reward_annotator

__all__ = ["judge_annotator", "pick_pair", "reward_annotator"]

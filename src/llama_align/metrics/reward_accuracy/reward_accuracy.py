"""Accuracy of a reward model by preference grade, beside a length baseline, and its calibration."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import LLAMA2, NUMBER, TEXT, described

DESCRIPTION = """\
How often a reward model scores the chosen answer above the rejected one, in all and by preference grade, as sums over
counts; given answer lengths, the accuracy of always preferring the longer answer; and the calibration of
sigmoid(chosen - rejected).
"""
INPUTS = """
Args:
    chosen, rejected (lists of float): scores of the two answers to each prompt; equal scores count half
    grades (list of str): significantly_better, better, slightly_better or negligibly_better
    chosen_lengths, rejected_lengths (optional, given to compute): lengths of all answers
    bins (optional, given to compute): number of calibration bins, 10 unless told
Returns:
    accuracy, low, high, n, [longer_wins], by_grade: {grade: the same}, ece,
    reliability: [{from, to, confidence, accuracy, n}]
Example:
    >>> metric.compute(chosen=[2.0, 0.0], rejected=[1.0, 1.0], grades=["better", "better"])["accuracy"]
    0.5
"""


class RewardAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, LLAMA2, chosen=NUMBER, rejected=NUMBER, grades=TEXT)

    def _compute(self, chosen, rejected, grades, **options) -> dict:
        return functional.reward_accuracy(chosen, rejected, grades, **options)

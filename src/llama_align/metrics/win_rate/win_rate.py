"""Share of prompts on which a model's answer scores above a baseline's."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import LLAMA2, NUMBER, described

DESCRIPTION = """\
The share of prompts on which the model's answer scores above the baseline's, ties counted half, with Wilson's 95%
interval (slightly wide when there are ties).
"""
INPUTS = """
Args:
    model, baseline (lists of float): scores of the two answers to each prompt
Returns:
    rate, low, high, n, wins, ties, losses
Example:
    >>> metric.compute(model=[1.0, 2.0], baseline=[0.5, 2.0])["rate"]
    0.75
"""


class WinRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, LLAMA2, model=NUMBER, baseline=NUMBER)

    def _compute(self, model, baseline) -> dict:
        return functional.win_rate(model, baseline)

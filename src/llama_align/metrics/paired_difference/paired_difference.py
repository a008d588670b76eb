"""Difference of two shares measured on the same items."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import NUMBER, described

DESCRIPTION = """\
How much more often one model is right than another on the same items, with a 95% interval for matched pairs and
whether it leaves out zero.
"""
INPUTS = """
Args:
    first, second (lists of 0 and 1): verdicts on the same items in the same order
Returns:
    difference (second - first), low, high, n, excludes_zero
Example:
    >>> metric.compute(first=[0, 0, 1, 1], second=[1, 0, 1, 1])["difference"]
    0.25
"""
CITATION = """\
@article{agresti2005simple,
  title={Simple improved confidence intervals for comparing matched proportions},
  author={Agresti, Alan and Min, Yongyi},
  journal={Statistics in Medicine},
  volume={24},
  number={5},
  pages={729--740},
  year={2005}
}
"""


class PairedDifference(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, CITATION, first=NUMBER, second=NUMBER)

    def _compute(self, first, second) -> dict:
        return functional.paired_difference(first, second)

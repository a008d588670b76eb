"""Share of items an exact judge accepted, in all and by family."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import NUMBER, TEXT, described

DESCRIPTION = """\
The share of items an exact judge accepted, with Wilson's 95% interval, in all and for every family of tasks.
"""
INPUTS = """
Args:
    verdicts (list of 0 and 1): what the judge said of each item
    families (list of str): the family each item belongs to
Returns:
    mean, low, high, n, and by_family: {family: {mean, low, high, n}}
Example:
    >>> metric.compute(verdicts=[1, 0, 1], families=["fact", "fact", "sum"])["mean"]
    0.6666666666666666
"""
CITATION = """\
@article{wilson1927probable,
  title={Probable Inference, the Law of Succession, and Statistical Inference},
  author={Wilson, Edwin B.},
  journal={Journal of the American Statistical Association},
  volume={22},
  number={158},
  pages={209--212},
  year={1927}
}
"""


class ExactScore(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, CITATION, verdicts=NUMBER, families=TEXT)

    def _compute(self, verdicts, families) -> dict:
        return functional.exact_score(verdicts, families)

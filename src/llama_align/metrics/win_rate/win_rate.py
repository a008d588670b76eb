"""Share of prompts on which a model's answer scores above a baseline's."""

import evaluate
from datasets import Features, Value

from llama_align.metrics import functional

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

CITATION = """\
@article{touvron2023llama2,
  title={Llama 2: Open Foundation and Fine-Tuned Chat Models},
  author={Touvron, Hugo and others},
  journal={arXiv preprint arXiv:2307.09288},
  year={2023}
}
"""


class WinRate(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=Features(
                {
                    "model": Value("float64"),
                    "baseline": Value("float64"),
                }
            ),
        )

    def _compute(self, model, baseline) -> dict:
        return functional.win_rate(model, baseline)

"""Answers that do not end, or end in words that repeat themselves."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import NUMBER, TEXT, described

DESCRIPTION = """\
How often sampled answers lack their end of turn, and how often their tail is one phrase over and over, each with
Wilson's 95% interval: what DPO does to a policy whose format tokens were trained apart (Llama 3, section 4.1.4).
"""
INPUTS = """
Args:
    answers (list of str): sampled answers
    finished (list of 0 and 1): the answer ended by itself
    copies (optional, given to compute): copies of a phrase that make a tail repetitive, 3 unless told
    longest (optional, given to compute): words of the longest phrase looked for, 20 unless told
Returns:
    missing_end, repetitive, each also as <name>_low and <name>_high; repeated_words (share of words in such tails); n
Example:
    >>> metric.compute(answers=["yes", "so so so so"], finished=[1, 0])["repetitive"]
    0.5
"""
CITATION = """\
@article{grattafiori2024llama3,
  title={The Llama 3 Herd of Models},
  author={Grattafiori, Aaron and others},
  journal={arXiv preprint arXiv:2407.21783},
  year={2024}
}
"""


class AnswerEndings(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, CITATION, answers=TEXT, finished=NUMBER)

    def _compute(self, answers, finished, **options) -> dict:
        return functional.answer_endings(answers, finished, **options)

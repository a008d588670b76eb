"""Perplexity per token, exact over any split into batches."""

import evaluate

from llama_align.metrics import functional
from llama_align.metrics.described import NUMBER, described

DESCRIPTION = """\
Perplexity per token from each batch's sum of negative log-likelihoods and its token count, so that batches of
different sizes weigh what they hold and any split gives the same value.
"""
INPUTS = """
Args:
    nll (list of float): summed negative log-likelihood of each batch, in nats
    tokens (list of int): number of tokens each sum covers
Returns:
    value, nll (per token), tokens
Example:
    >>> metric.compute(nll=[0.0, 0.0], tokens=[3, 5])["value"]
    1.0
"""
CITATION = """\
@article{jelinek1977perplexity,
  title={Perplexity: a measure of the difficulty of speech recognition tasks},
  author={Jelinek, Fred and Mercer, Robert L. and Bahl, Lalit R. and Baker, James K.},
  journal={The Journal of the Acoustical Society of America},
  volume={62},
  number={S1},
  pages={S63},
  year={1977}
}
"""


class TokenPerplexity(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return described(DESCRIPTION, INPUTS, CITATION, nll=NUMBER, tokens=NUMBER)

    def _compute(self, nll, tokens) -> dict:
        return functional.token_perplexity(nll, tokens)

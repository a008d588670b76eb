"""What stands between a prefix and a suffix, sampled (Code Llama, section 2.3): texts in, texts out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..chat import InfillingTokens, decode_middle, infilling_prompt
from ..data import tokens_of
from .engine import SamplingParams
from .make import make_engine


@dataclass(frozen=True)
class Filled:
    """A middle as it was sampled. finished: it ended by itself."""

    text: str
    finished: bool


class Infiller:
    """Fills gaps with a model that was trained to, and its tokenizer.

    Args:
        model: a loaded model (for vLLM: the path of a checkpoint). engine, options: see `make_engine`.

    Raises:
        ContractError: a tokenizer without control tokens for infilling.
    """

    def __init__(self, model, tokenizer, engine: str = "auto", **options):
        self.tokenizer = tokenizer
        self.tokens, self.around = InfillingTokens.of(tokenizer), tokens_of(tokenizer)
        self.engine = make_engine(engine, model, **options)

    def __call__(
        self, gaps: Sequence[tuple[str, str]], params: SamplingParams, suffix_first: bool = False
    ) -> list[list[Filled]]:
        """`params.n` middles for each prefix and suffix, in order.

        Args:
            suffix_first: ask in the form that has the suffix first. A prefix that ends within a word is better asked
                prefix first: with the suffix first the model never saw a token cut where the prefix ends.
        """
        begin = [] if self.around.bos is None else [self.around.bos]
        prompts = [
            [*begin, *infilling_prompt(self.tokenizer, prefix, suffix, self.tokens, suffix_first)]
            for prefix, suffix in gaps
        ]
        answers = self.engine.generate(prompts, params, {self.tokens.end, self.around.eos})
        return [
            [Filled(self._text(prefix, answer.ids), answer.finished) for answer in group]
            for (prefix, _), group in zip(gaps, answers, strict=True)
        ]

    def _text(self, prefix: str, ids: Sequence[int]) -> str:
        return decode_middle(self.tokenizer, prefix, [i for i in ids if i != self.around.eos], self.tokens)

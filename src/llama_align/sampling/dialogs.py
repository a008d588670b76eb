"""An engine and its tokenizer together: dialogs in, texts out. The only way the recipes sample."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..chat import Answer, ControlTokens, Message, as_text, decode_answer, render_prompt
from .engine import SamplingParams
from .make import make_engine


@dataclass(frozen=True)
class Draft:
    """One sampled answer. `finished`: it ended by itself; `tokens`: its length with the terminator."""

    answer: Answer
    finished: bool
    tokens: int

    @property
    def text(self) -> str:
        """What it says, to judge and to show."""
        return as_text(self.answer)


class DialogSampler:
    """Samples answers to dialogs with a model and its tokenizer.

    Args:
        model: a loaded model (for vLLM: the path of a checkpoint). engine, options: see `make_engine`.
    """

    def __init__(self, model, tokenizer, engine: str = "auto", **options):
        self.tokenizer = tokenizer
        self.tokens = ControlTokens.of(tokenizer)
        self.engine = make_engine(engine, model, **options)

    def __call__(
        self,
        prompts: Sequence[list[Message]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
        progress: bool = False,
    ) -> list[list[Draft]]:
        """`params.n` drafts per prompt, in order; `keys` name the prompts' random streams (default: their index)."""
        ids = [render_prompt(self.tokenizer, prompt, self.tokens) for prompt in prompts]
        answers = self.engine.generate(ids, params, set(self.tokens.terminators), progress=progress, keys=keys)
        return [[self._draft(answer) for answer in group] for group in answers]

    def _draft(self, answer) -> Draft:
        return Draft(decode_answer(self.tokenizer, answer.ids, self.tokens), answer.finished, len(answer.ids))

"""An engine and its tokenizer together: dialogs in, texts out. The only way the recipes sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..chat import Answer, ControlTokens, Message, as_text, decode_answer, render_prompt
from .engine import SamplingParams
from .make import make_engine
from .native import NativeEngine


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

    def stream(self, prompt: list[Message], params: SamplingParams, each: Callable[[str], None], key: int = 0) -> Draft:
        """The draft that a call gives for this key; `each` is called with every piece of its text as it is drawn.

        The pieces are what a reader sees, control tokens left out. An engine other than the native one draws it as a
        whole.
        """
        ids = render_prompt(self.tokenizer, prompt, self.tokens)
        shown, drawn = "", []

        def decode(token: int) -> None:
            nonlocal shown
            drawn.append(token)
            text = self.tokenizer.decode(drawn, skip_special_tokens=True)
            if len(text) > len(shown) and not text.endswith("\ufffd"):  # part of a character
                each(text[len(shown) :])
                shown = text

        if isinstance(self.engine, NativeEngine):
            return self._draft(self.engine.stream(ids, params, set(self.tokens.terminators), decode, key))
        ((answer,),) = self.engine.generate([ids], params, set(self.tokens.terminators), keys=[key])
        each(self.tokenizer.decode(answer.ids, skip_special_tokens=True))
        return self._draft(answer)

    def _draft(self, answer) -> Draft:
        return Draft(decode_answer(self.tokenizer, answer.ids, self.tokens), answer.finished, len(answer.ids))

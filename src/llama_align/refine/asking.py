"""A chat checkpoint asked about dialogs: the questions, and what is read from its answers.

Llama 3 (section 4.2.3): "we prompt Llama 3 checkpoint to rate each sample on a three-point scale for general English
data (accuracy, instruction following, and tone/presentation) and a two-point scale for coding data (bug identification
and user intention)"; "we prompt Llama 3 70B to perform intention tagging of SFT prompts, where more intentions implies
more complexity. We also prompt Llama 3 to measure the difficulty of dialogs on a three-point scale."
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..chat import Message
from ..data import Prompt, Sample, fitting_prompts
from ..rejection.draws import Draws, sources

SCALES = {
    "general": (
        3,
        "Rate the last answer of this dialog. It gets one point if what it says is accurate, one if it follows the "
        "instructions, and one if its tone and presentation are good.",
    ),
    "code": (
        2,
        "Rate the last answer of this dialog, which is about code. It gets one point if the code has no bug, and one "
        "if it does what the user meant.",
    ),
}
POINTS = 3
DIFFICULTY = (
    "How difficult is it to answer the user's last message in this dialog? 1 is easy, 2 takes some thought or "
    "knowledge, 3 is hard even for an expert."
)
INTENTIONS = (
    "List every distinct intention of the user's last message in this dialog, one a line, each in a few words, and "
    "nothing else."
)
_NUMBER = re.compile(r"(?<![\d.,-])(\d+)(?![\d]|[.,]\d)")
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s*")


def about(dialog: str, question: str, end: str) -> list[Message]:
    """The dialog that asks a question about another one, which stands between lines."""
    return [{"role": "user", "content": f"{question}\n\n---\n{dialog}\n---\n\n{end}"}]


def number_up_to(most: int) -> Callable[[str], int | None]:
    """A reader of answers: the one whole number from 0 to `most` that is in it; None where there is none or several."""

    def read(answer: str) -> int | None:
        found = {int(text) for text in _NUMBER.findall(answer)}
        return found.pop() if len(found) == 1 and max(found) <= most else None

    return read


def lines_in(answer: str) -> int | None:
    """How many distinct lines an answer lists; None for an empty one."""
    said = {_BULLET.sub("", line).strip().casefold() for line in answer.splitlines()} - {""}
    return len(said) or None


def one_of(names: Sequence[str]) -> Callable[[str], str | None]:
    """A reader of answers: the one of the names that is in it as whole words; None where there is none or several."""

    def read(answer: str) -> str | None:
        plain = answer.casefold()
        found = [name for name in names if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", plain)]
        # of "maths" and "applied maths" the longer one is meant
        found = [name for name in found if not any(name != other and name in other for other in found)]
        return found[0] if len(found) == 1 else None

    return read


class Asker:
    """Answers of one checkpoint, drawn in shards that survive a kill (see `rejection.draws`).

    Args:
        draws: how; of its `params` each call has its own number of answers and length. checkpoint: who is asked.
        context: tokens of question and answer. tokenizer: the checkpoint's. too_long: what becomes of a longer
            question: `error`, or `drop` for no answer.
    """

    def __init__(self, draws: Draws, checkpoint: str, tokenizer, context: float, too_long: str, seed: int):
        self.draws, self.checkpoint, self.tokenizer = draws, checkpoint, tokenizer
        self.context, self.too_long, self.seed = context, too_long, seed

    def __call__(
        self,
        questions: Sequence[list[Message]],
        answers: int = 1,
        temperature: float = 0.0,
        tokens: int | None = None,
        stage: int = 0,
    ) -> list[list[Sample]]:
        """`answers` samples to each question, in order; none to one that is too long.

        Args:
            tokens: longest answer. stage: questions of different stages draw from random streams of their own.

        Raises:
            RecordError: a question is too long and `too_long` is `error`, or all are.
        """
        if not questions:
            return []
        draws = replace(self.draws, params=replace(self.draws.params, n=answers))
        if tokens is not None:
            draws = replace(draws, params=replace(draws.params, max_new_tokens=tokens))
        prompts = [Prompt(question, "helpfulness", source="questions") for question in questions]
        room = self.context - draws.params.max_new_tokens
        kept, _ = fitting_prompts(prompts, self.tokenizer, room, self.too_long)
        source = sources([(self.checkpoint, temperature)] * (stage + 1), self.seed)[stage]
        drawn = iter(draws(source, kept))
        fits = {id(prompt) for prompt in kept}
        return [[next(drawn) for _ in range(answers)] if id(prompt) in fits else [] for prompt in prompts]

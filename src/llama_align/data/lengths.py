"""Tokens of a record as a trainer takes it, by which mixtures are shared out: 0 for one that is left out.

Knows the token contract and what rows leave out; knows nothing of mixtures.
"""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from ..chat import ContractError, ControlTokens, render, render_prompt
from .records import Demonstration, Document, Preference
from .tokenized import answer_ids


def characters(document: Document) -> int:
    """Of a document that nothing tokenises yet."""
    return len(document.text)


def dialog_tokens(tokenizer: PreTrainedTokenizerBase, length: int, too_long: str) -> Callable[[Demonstration], int]:
    """Of a whole dialog, as in `demonstration_rows`."""
    tokens = ControlTokens.of(tokenizer)

    def size(record: Demonstration) -> int:
        cut = record.finished is False
        try:
            found = len(render(tokenizer, record.messages, tokens=tokens, continue_final_message=cut).ids)
        except ContractError:  # which the rows name with its record
            return 0
        return 0 if found > length and too_long == "drop" else found

    return size


def pair_tokens(
    tokenizer: PreTrainedTokenizerBase, length: int, too_long: str, wanted: Callable[[Preference], bool]
) -> Callable[[Preference], int]:
    """Of prompt and both answers, as in `preference_rows` and `ranking_rows`.

    Args:
        wanted: whether a recipe trains on such a pair at all.
    """
    tokens = ControlTokens.of(tokenizer)

    def size(record: Preference) -> int:
        if not wanted(record):
            return 0
        chosen, finished = record.best
        answers = {"chosen": (chosen, finished), "rejected": (record.rejected, record.rejected_finished is not False)}
        try:
            prompt = len(render_prompt(tokenizer, record.prompt, tokens))
            better, worse = (answer_ids(tokenizer, side, *said, tokens) for side, said in answers.items())
        except ContractError:
            return 0
        room = length - prompt
        most = max(len(better), len(worse))
        if better == worse or (too_long == "drop" and most > room) or (too_long == "cut" and room < 1):
            return 0
        return prompt + sum(min(len(answer), room) if too_long == "cut" else len(answer) for answer in (better, worse))

    return size

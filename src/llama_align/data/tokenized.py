"""Records to rows of ids, as the trainers take them. All ids come from the token contract."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..chat import (
    Answer,
    ContractError,
    ControlTokens,
    InfillingTokens,
    encode_answer,
    encode_infilled,
    encode_text,
    render,
    render_prompt,
)
from .infilling import Infilling
from .left_out import TooLong, none_left
from .packing import pack
from .records import GRADES, Demonstration, Document, Preference, Prompt, RecordError, SourceError, show
from .splits import prompt_text

TOO_LONG = ("error", "drop")
ENCODED = 1000  # documents that are encoded at once


class PairsLeftOut(NamedTuple):
    """How many pairs `preference_rows` left out: too long, or of two equal answers, which prefer nothing."""

    too_long: TooLong
    equal: int


class DocumentTokens(NamedTuple):
    """A tokenizer's own ids around a document. bos: None where it has none. pad: only fills rows, and is never read."""

    bos: int | None
    eos: int
    pad: int

    @property
    def ids(self) -> dict[str, int]:
        """Those that the tokenizer has, as `ControlTokens.ids`."""
        return {"eos": self.eos}


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> ControlTokens | DocumentTokens:
    """What stands around a document: as the token contract has it, or a tokenizer's own where that has no dialect.

    Raises:
        ContractError: no end of text.
    """
    try:
        return ControlTokens.of(tokenizer)
    except ContractError:
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        if eos is None:
            raise
    return DocumentTokens(bos, eos, eos if pad is None else pad)


def _document(ids: list[int], tokens: ControlTokens | DocumentTokens) -> list[int]:
    return [*([] if tokens.bos is None else [tokens.bos]), *ids, tokens.eos]


def document_rows(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    strategy: str = "concat",
    infilling: Infilling | None = None,
) -> Dataset:
    """Documents between begin and end of text, packed into rows of `length`. A long document fills several rows.

    Args:
        infilling: see `document_ids`.
    """
    sequences = list(document_ids([document.text for document in documents], tokenizer, infilling))
    return _packed(sequences, None, length, strategy, tokens_of(tokenizer).pad)


def document_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, infilling: Infilling | None = None
) -> Iterator[list[int]]:
    """Ids of documents between begin and end of text.

    Args:
        infilling: which documents have their middle moved to their end.

    Raises:
        ContractError: infilling with a tokenizer that has no control tokens for it.
    """
    tokens = tokens_of(tokenizer)
    own = InfillingTokens.of(tokenizer) if infilling and infilling.rate else None
    for start in range(0, len(texts), ENCODED):
        batch = list(texts[start : start + ENCODED])
        moved = _infilled(batch, tokenizer, tokens, infilling, own) if own else {}
        encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for number, ids in enumerate(encoded):
            yield moved.get(number) or _document(ids, tokens)


def _infilled(texts: list[str], tokenizer, tokens, infilling: Infilling, own: InfillingTokens) -> dict[int, list[int]]:
    """By number those documents that are split, as far as they are not longer than they may be."""
    splits = {number: split for number, text in enumerate(texts) if (split := infilling.split(text))}
    written = zip(splits, encode_infilled(tokenizer, list(splits.values()), own), strict=True)
    moved = {number: _document(ids, tokens) for number, ids in written}
    return {number: ids for number, ids in moved.items() if len(ids) <= (infilling.longest or len(ids))}


def demonstration_rows(
    demonstrations: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    strategy: str = "bfd",
    too_long: str = "error",
) -> tuple[Dataset, TooLong]:
    """Dialogs packed into rows of `length`, labelled where the assistant speaks, and the number left out as too long.

    A last answer that was cut stands, and is learned, without an end of turn.

    Raises:
        RecordError: a dialog longer than `length`, unless `too_long` is `"drop"`; or none that fits.
    """
    tokens = ControlTokens.of(tokenizer)
    rendered = []
    for number, record in enumerate(demonstrations, start=1):
        with naming_record(record, number):
            cut = record.finished is False
            rendered.append(render(tokenizer, record.messages, tokens=tokens, continue_final_message=cut))
    kept = fitting(
        list(zip(demonstrations, rendered, strict=True)), lambda pair: len(pair[1].ids), length, too_long, "messages"
    )
    dropped = TooLong.of((len(one.ids) for one in rendered), length)
    if not kept:
        raise none_left("demonstration", {dropped.reason("raise max_length"): dropped})
    ids = [pair[1].ids for pair in kept]
    labels = [pair[1].labels for pair in kept]
    return _packed(ids, labels, length, strategy, tokens.pad), dropped


def preference_rows(
    preferences: Sequence[Preference],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    margins: dict[str, float] | None = None,
    too_long: str = "error",
    earlier: Mapping[str, int] | None = None,
) -> tuple[Dataset, PairsLeftOut]:
    """Pairs as ids: `prompt_ids`, the answers' `chosen_ids` and `rejected_ids` with terminators, `margin`, `grade`.

    The chosen answer is the edited one where a record has it; one that was cut has no terminator. With `too_long` as
    `"cut"` answers stay whole, for a trainer to cut them, and only pairs whose prompt leaves no room are left out.

    Args:
        earlier: what the caller left out before, by reason, for the error where no pair is left.

    Returns:
        The rows and the numbers of pairs left out. Answers are equal that have the same ids: text and ending.

    Raises:
        RecordError: prompt and longer answer exceed `max_length` tokens, unless `too_long` is `"drop"` or `"cut"`; or
            no pair is left.
    """
    tokens = ControlTokens.of(tokenizer)
    rows = []
    for number, record in enumerate(preferences, start=1):
        chosen, finished = record.best
        answers = {"chosen": (chosen, finished), "rejected": (record.rejected, record.rejected_finished is not False)}
        with naming_record(record, number):
            prompt = render_prompt(tokenizer, record.prompt, tokens)
            encoded = {f"{side}_ids": answer_ids(tokenizer, side, *said, tokens) for side, said in answers.items()}
        rows.append(
            {
                "prompt_ids": prompt,
                **encoded,
                "grade": GRADES.index(record.grade),
                "margin": (margins or {}).get(record.grade, 0.0),
            }
        )
    pairs = [pair for pair in zip(preferences, rows, strict=True) if pair[1]["chosen_ids"] != pair[1]["rejected_ids"]]
    equal = len(rows) - len(pairs)
    cut, too_long = too_long == "cut", "drop" if too_long == "cut" else too_long
    kept = fitting(pairs, lambda pair: len(pair[1]["prompt_ids"]) + 1, max_length, too_long, "prompt")
    if not cut:
        kept = fitting(kept, lambda pair: _pair_length(pair[1]), max_length, too_long, "chosen or rejected")
    lengths = (len(row["prompt_ids"]) + 1 if cut else _pair_length(row) for _, row in pairs)
    left_out = PairsLeftOut(TooLong.of(lengths, max_length), equal)
    if not kept:
        reasons = {"of equal answers": equal, left_out.too_long.reason("raise max_length"): left_out.too_long}
        raise none_left("pair", {**(earlier or {}), **reasons})
    return Dataset.from_list([row for _, row in kept]), left_out


def fitting_prompts(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, max_tokens: int, too_long: str = "error"
) -> tuple[list[Prompt], TooLong]:
    """The prompts of at most `max_tokens` with the header of the answer, and the number left out.

    Raises:
        RecordError: a longer prompt, unless `too_long` is `"drop"`; or none that fits.
    """
    tokens = ControlTokens.of(tokenizer)
    pairs = []
    for number, prompt in enumerate(prompts, start=1):
        with naming_record(prompt, number):
            pairs.append((prompt, len(render_prompt(tokenizer, prompt.messages, tokens))))
    kept = fitting(pairs, lambda pair: pair[1], max_tokens, too_long, "messages")
    dropped = TooLong.of((length for _, length in pairs), max_tokens)
    if not kept:
        raise none_left("prompt", {dropped.reason("the context less max_new_tokens"): dropped})
    return [prompt for prompt, _ in kept], dropped


def full_rows(pairs: Dataset) -> Dataset:
    """The same pairs for a reward model, which reads prompt and answer as one sequence."""
    return pairs.map(
        lambda row: {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
        },
        remove_columns="prompt_ids",
    )


def _where(record, number: int) -> str:
    source = f" from {record.source}" if record.source else ""
    return f"record {number}{source}, {show(prompt_text(record))}"  # its text, by which a user can find it


def answer_ids(tokenizer, side: str, answer: Answer, finished: bool, tokens: ControlTokens) -> list[int]:
    """As `encode_answer`; raises ContractError that names the side of a pair."""
    try:
        return encode_answer(tokenizer, answer, tokens, finished)
    except ContractError as error:  # which counts messages, and this is one of its own
        raise ContractError(f"{side}, {str(error).partition(', ')[2]}") from error


@contextmanager
def naming_record(record, number: int):
    """Says of a dialog that its model's dialect cannot write which record it is of."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{_where(record, number)}: {error}") from error


def _pair_length(row: dict) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def fitting(pairs: list, length_of: Callable, limit: int, too_long: str, field: str) -> list:
    """The (record, encoding) pairs that are not too long.

    Raises:
        RecordError: one of more than `limit` tokens, unless `too_long` is `"drop"`.
    """
    if too_long not in TOO_LONG:
        raise SourceError(f"too_long: found {too_long!r}, expected one of {', '.join(TOO_LONG)}")
    lengths = [length_of(pair) for pair in pairs]
    above = sorted(length for length in lengths if length > limit)
    for number, (pair, length) in enumerate(zip(pairs, lengths, strict=True), start=1):
        if length > limit and too_long == "error":
            where = _where(pair[0], number)
            others = f" and {len(above) - 1} more of up to {above[-1]}" if len(above) > 1 else ""
            found = f"{length}{others} tokens"
            raise RecordError(where, field, found, f"at most {limit}, the context (or set too_long: drop)")
    return [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]


def _packed(sequences, labels, length: int, strategy: str, pad_id: int) -> Dataset:
    fill = {"input_ids": pad_id, "labels": -100}
    rows = []
    for row in pack(sequences, length, strategy, labels=labels):
        missing = length - len(row["input_ids"])
        padded = {key: [*row[key].tolist(), *[value] * missing] for key, value in fill.items()}
        # padding is a document of its own, so nothing attends to it
        rows.append(padded | {"position_ids": [*row["position_ids"].tolist(), *range(missing)]})
    return Dataset.from_list(rows)


def text_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Documents as ids between begin and end of text, for measuring perplexity."""
    tokens = tokens_of(tokenizer)
    return [_document(encode_text(tokenizer, text), tokens) for text in texts]

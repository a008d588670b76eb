"""What every sampling engine takes and returns. Knows token ids only: no text, no chat format, no records."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class SamplingParams:
    """How answers are drawn. The settings act in the order of `transformers`: repetition_penalty, temperature, top_k,
    top_p, min_p.

    Args:
        n: answers per prompt.
        max_new_tokens: an answer that did not end by then is returned as it is, with `finished=False`.
        temperature: 0 is greedy decoding.
        top_p: keep the smallest set of tokens with at least this probability; 1 keeps all. The native engine keeps all
            tokens as likely as the least likely one kept, where others keep some of them by their order.
        top_k: keep the k likeliest tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the likeliest one.
        repetition_penalty: divide the positive, multiply the negative scores of tokens already seen.
        seed: with the prompt's key and the answer's index it names the random stream of one answer.

    Raises:
        ValueError: names the field that is out of range.
    """

    n: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, low in (("n", 1), ("max_new_tokens", 1), ("top_k", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"{name} must be a whole number of at least {low}, found {value!r}")
        for name, fits, wanted in (
            ("temperature", lambda x: x >= 0, "at least 0"),
            ("top_p", lambda x: 0 < x <= 1, "above 0 and at most 1"),
            ("min_p", lambda x: 0 <= x <= 1, "between 0 and 1"),
            ("repetition_penalty", lambda x: x > 0, "above 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not fits(value):
                raise ValueError(f"{name} must be a number {wanted}, found {value!r}")


@dataclass(frozen=True)
class Answer:
    """One answer: its ids (the terminator included when `finished`) and, for each, the log-probability under the
    model's own distribution, before penalty, temperature and filters."""

    ids: list[int]
    logprobs: list[float]
    finished: bool


class Likelihood(NamedTuple):
    """Sum of log p of the tokens of a continuation, in nats, and whether each is the likeliest at its place."""

    total: float
    greedy: bool


class Engine(Protocol):
    """Draws answers for prompts given as token ids."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        stop_ids: set[int],
        progress: bool = False,
        keys: Sequence[int] | None = None,
    ) -> list[list[Answer]]:
        """Return `params.n` answers for every prompt, in the order of the prompts.

        Args:
            stop_ids: an answer ends with the first of these ids.
            progress: show a progress bar with tokens per second.
            keys: one whole number per prompt that names its random streams; the prompt's index when left out.

        Raises:
            ValueError: a prompt is empty, has an id outside the vocabulary or does not fit the context.
        """
        ...


def unwrap(model: Any) -> Any:
    """The model inside DistributedDataParallel, DeepSpeed and PEFT wrappers; adapters stay active."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prepare_keys(
    prompts: Sequence[Sequence[int]], params: SamplingParams, config: Any, keys: Sequence[int] | None
) -> list[int]:
    """Check the prompts against the model's vocabulary and context (if it has a limit) and return one key per prompt.

    Raises:
        ValueError: names the index of the first prompt that cannot be answered, and the limit.
    """
    # without positions of its own, as in Bloom's ALiBi, a model names no limit
    limit, vocabulary = getattr(config, "max_position_embeddings", None), config.vocab_size
    for i, ids in enumerate(prompts):
        if not ids:
            raise ValueError(f"prompt {i} is empty: there is nothing to continue")
        if limit is not None and len(ids) + params.max_new_tokens > limit:
            raise ValueError(
                f"prompt {i} has {len(ids)} tokens, which with max_new_tokens={params.max_new_tokens} "
                f"exceeds the model's context of {limit}"
            )
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise ValueError(f"prompt {i} has an id outside the vocabulary of {vocabulary}: {min(ids)} to {max(ids)}")
    if keys is None:
        return list(range(len(prompts)))
    if len(keys) != len(prompts):
        raise ValueError(f"keys has {len(keys)} entries for {len(prompts)} prompts")
    return list(keys)

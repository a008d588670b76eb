"""Texts that end before the first of some strings, from any engine."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from .engine import Engine, SamplingParams

FIRST = 32  # tokens of the first stretch
TAIL = 4  # tokens before an answer, by which its first token's space is known


def texts_until(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[Sequence[str]],
    params: SamplingParams,
    stop_ids: set[int],
    keys: Sequence[int] | None = None,
) -> list[str]:
    """One text per prompt, cut before the first of its stop strings.

    Engines know tokens alone, so a text is drawn in stretches that double, and looked at between them. A greedy text is
    the one that a single stretch gives; one that is sampled has random numbers of its own in each.

    Raises:
        ValueError: more than one answer is asked for, and as `Engine.generate` does.
    """
    if params.n != 1:
        raise ValueError(f"n: found {params.n}, expected 1: a stop string ends one text")
    keys = range(len(prompts)) if keys is None else keys
    drawn: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    waiting, begun, length = list(range(len(prompts))), 0, FIRST
    while waiting and begun < params.max_new_tokens:
        length = min(length, params.max_new_tokens - begun)
        stretch = replace(params, max_new_tokens=length, seed=params.seed + begun)
        asked = [[*prompts[i], *drawn[i]] for i in waiting]
        answers = engine.generate(asked, stretch, stop_ids, keys=[keys[i] for i in waiting])
        still = []
        for i, (answer,) in zip(waiting, answers, strict=True):
            drawn[i] += answer.ids[: len(answer.ids) - answer.finished]
            texts[i], ended = _cut(_text(tokenizer, prompts[i], drawn[i]), stops[i])
            if not (ended or answer.finished):
                still.append(i)
        waiting, begun, length = still, begun + length, 2 * length
    return texts


def _text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int]) -> str:
    """What the ids add to a prompt: decoded alone, SentencePiece's first token loses its space."""
    before = list(prompt[-TAIL:])
    head = tokenizer.decode(before, skip_special_tokens=True)
    return tokenizer.decode(before + ids, skip_special_tokens=True)[len(head) :]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)

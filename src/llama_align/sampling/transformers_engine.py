"""The same interface over `generate`, for models that are not Llamas and as a reference for the native engine.

Suffixes: N rows, L padded length, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from .engine import Answer, SamplingParams, prepare_keys, unwrap
from .native import inference
from .progress import Progress
from .streams import answer_streams

NEVER = -1  # `generate` falls back to the model's own terminators when none are given


class TransformersEngine:
    """Answers through `model.generate`, see `Engine`.

    A random stream serves a batch, and is named by the seed, the keys of its prompts and its first answer: the same
    call draws the same again, another with other keys something else, but an answer depends on what else is asked.

    Args:
        model: any causal language model of transformers.
        max_cached_tokens: bound on the tokens of one batch, padding and room for answers included. A single answer is
            always taken, even where it alone exceeds the bound.

    Raises:
        ValueError: the bound is not positive.
    """

    def __init__(self, model: torch.nn.Module, max_cached_tokens: int = 65536):
        if max_cached_tokens < 1:
            raise ValueError(f"max_cached_tokens must be at least 1, found {max_cached_tokens}")
        self.model = model
        self.max_cached_tokens = max_cached_tokens

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        stop_ids: set[int],
        progress: bool = False,
        keys: Sequence[int] | None = None,
    ) -> list[list[Answer]]:
        """See `Engine.generate`."""
        model = unwrap(self.model)
        keys = prepare_keys(prompts, params, model.config, keys)
        answers: list[list[Answer]] = [[] for _ in prompts]
        devices = [model.device] if model.device.type == "cuda" else []
        with (
            inference(self.model),
            _without_defaults(model),
            torch.random.fork_rng(devices),
            Progress(len(prompts) * params.n, progress) as bar,
        ):
            for batch in _batches(prompts, params, self.max_cached_tokens):
                torch.manual_seed(_seed(params, [keys[i] for i in batch.prompts], batch.first))
                drawn = self._batch(model, [prompts[i] for i in batch.prompts], batch.count, params, stop_ids)
                for j, i in enumerate(batch.prompts):
                    answers[i] += drawn[j * batch.count : (j + 1) * batch.count]
                bar.add(drawn)
        return answers

    def _batch(
        self, model, prompts: list[Sequence[int]], count: int, params: SamplingParams, stop_ids: set[int]
    ) -> list[Answer]:
        """`count` answers to each prompt, the longest of which comes first."""
        longest = len(prompts[0])
        ids_NL = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in prompts], device=model.device)
        begin_N = torch.tensor([longest - len(ids) for ids in prompts], device=model.device)
        mask_NL = (torch.arange(longest, device=model.device) >= begin_N[:, None]).long()
        sampled = params.temperature > 0
        filters = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        filters |= {"min_p": params.min_p or None}
        config = GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            do_sample=sampled,
            num_return_sequences=count if sampled else 1,
            repetition_penalty=params.repetition_penalty,
            eos_token_id=sorted(stop_ids) or [NEVER],
            pad_token_id=0,
            **filters if sampled else {},
        )
        out_NL = model.generate(ids_NL, attention_mask=mask_NL, generation_config=config)
        repeats = 1 if sampled else count
        copies = count // repeats
        answers = []
        for row, full_L in enumerate(out_NL):
            prompt = prompts[row // copies]
            answer = _read_answer(model, full_L[longest - len(prompt) :], len(prompt), stop_ids)
            answers += [answer] * repeats
        return answers


@dataclass(frozen=True)
class _Batch:
    """Answers `first` to `first + count - 1` of some prompts."""

    prompts: list[int]
    first: int
    count: int


def _batches(prompts: Sequence[Sequence[int]], params: SamplingParams, max_tokens: int) -> Iterator[_Batch]:
    """The work, longest prompt first; a prompt whose answers exceed the bound by themselves comes several times."""
    by_length = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    while by_length:
        rows = max(1, max_tokens // (len(prompts[by_length[0]]) + params.max_new_tokens))
        each = 1 if params.temperature == 0 else params.n  # a greedy answer is computed once
        if each <= rows:
            yield _Batch(by_length[: rows // each], 0, params.n)
            by_length = by_length[rows // each :]
        else:
            for first in range(0, params.n, rows):
                yield _Batch(by_length[:1], first, min(rows, params.n - first))
            by_length = by_length[1:]


def _seed(params: SamplingParams, keys: Sequence[int], first: int) -> int:
    return int(answer_streams(params.seed, keys, [first] * len(keys)).sum()) & (2**63 - 1)


@contextmanager
def _without_defaults(model) -> Iterator[None]:
    """Hides the checkpoint's generation settings, from which `generate` fills what a call leaves open (min_p, say)."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _read_answer(model, ids_L: Tensor, prompt_length: int, stop_ids: set[int]) -> Answer:
    """Cut after the first terminator; log-probabilities from one forward pass over the unpadded text."""
    ids = ids_L[prompt_length:].tolist()
    length = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), len(ids))
    full_L = ids_L[: prompt_length + length]
    logits_LV = model(full_L[None], use_cache=False, logits_to_keep=length + 1).logits[0, :-1].float()
    logprobs_L = logits_LV.log_softmax(-1).gather(1, full_L[prompt_length:, None])[:, 0]
    return Answer(ids[:length], logprobs_L.tolist(), length > 0 and ids[length - 1] in stop_ids)

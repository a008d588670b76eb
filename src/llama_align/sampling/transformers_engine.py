"""The same interface over `generate`, for models that are not Llamas and as a reference for the native engine.

Suffixes: N rows, L padded length, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig

from .engine import Answer, SamplingParams, prepare_keys, unwrap
from .native import inference

NEVER = -1  # `generate` falls back to the model's own terminators when none are given


class TransformersEngine:
    """Answers through `model.generate`, see `Engine`.

    The random stream is one per call, seeded with `params.seed`: an answer depends on what else is asked, and keys have
    no effect.

    Args:
        model: any causal language model of transformers.
        max_cached_tokens: bound on the tokens of one batch, padding and room for answers included.
    """

    def __init__(self, model: torch.nn.Module, max_cached_tokens: int = 65536):
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
        prepare_keys(prompts, params, model.config, keys)
        answers: list[list[Answer]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        devices = [model.device] if model.device.type == "cuda" else []
        bar = tqdm(total=len(prompts) * params.n, unit="answer", disable=not progress)
        with inference(self.model), torch.random.fork_rng(devices), bar:
            torch.manual_seed(params.seed)
            while by_length:
                room = len(prompts[by_length[0]]) + params.max_new_tokens
                take = max(1, self.max_cached_tokens // (room * params.n))
                batch, by_length = by_length[:take], by_length[take:]
                drawn = self._batch(model, [prompts[i] for i in batch], params, stop_ids)
                for j, i in enumerate(batch):
                    answers[i] = drawn[j * params.n : (j + 1) * params.n]
                bar.update(len(drawn))
        return answers

    def _batch(self, model, prompts: list[Sequence[int]], params: SamplingParams, stop_ids: set[int]) -> list[Answer]:
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
            num_return_sequences=params.n if sampled else 1,
            repetition_penalty=params.repetition_penalty,
            eos_token_id=sorted(stop_ids) or [NEVER],
            pad_token_id=0,
            **filters if sampled else {},
        )
        out_NL = model.generate(ids_NL, attention_mask=mask_NL, generation_config=config)
        repeats = 1 if sampled else params.n
        copies = params.n // repeats
        answers = []
        for row, full_L in enumerate(out_NL):
            prompt = prompts[row // copies]
            answer = _read_answer(model, full_L[longest - len(prompt) :], len(prompt), stop_ids)
            answers += [answer] * repeats
        return answers


def _read_answer(model, ids_L: Tensor, prompt_length: int, stop_ids: set[int]) -> Answer:
    """Cut after the first terminator; log-probabilities from one forward pass over the unpadded text."""
    ids = ids_L[prompt_length:].tolist()
    length = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), len(ids))
    full_L = ids_L[: prompt_length + length]
    logits_LV = model(full_L[None], use_cache=False, logits_to_keep=length + 1).logits[0, :-1].float()
    logprobs_L = logits_LV.log_softmax(-1).gather(1, full_L[prompt_length:, None])[:, 0]
    return Answer(ids[:length], logprobs_L.tolist(), length > 0 and ids[length - 1] in stop_ids)

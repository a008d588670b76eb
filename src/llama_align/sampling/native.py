"""The project's own engine: a batched decoder that reads the live weights of a Llama model.

Nothing is kept between calls, so a policy can be trained between them. The modules themselves are called, never their
weights, so adapters and sharded parameters work. It gains over `generate` by work left undone: no padding in prefill,
a prompt computed and stored once for all its answers, finished answers dropped at once, new prompts taken in while
others go on.

Suffixes: N tokens or rows, D hidden size, H query heads, J key-value heads, K size of a head, L length of
a prompt, B prompts, P padded prompt length, 2 keys and values.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..kernels import Segments, segment_attention
from ..kernels.linear import fast_products, worth_routing
from .cohort import Cohort, Job
from .engine import Answer, SamplingParams, prepare_keys, unwrap
from .next_token import choose
from .progress import Progress
from .streams import answer_streams

MODEL_TYPES = {"llama", "llama_herd"}
ROPE_TYPES = {"default", "linear", "llama3", "yarn"}  # the others change their angles with the length of the text
PREFILL_TOKENS = 8192
SCORES_AT_ONCE = 1 << 23  # rows times vocabulary, so that scores of a large vocabulary stay small beside the cache


def why_not_native(model: Any) -> str | None:
    """Return None if the native engine can run this model, else the reason in one line."""
    config = getattr(unwrap(model), "config", None)
    if getattr(config, "model_type", None) not in MODEL_TYPES:
        return f"the model is of type {getattr(config, 'model_type', type(model).__name__)}, not {sorted(MODEL_TYPES)}"
    if not hasattr(unwrap(model), "lm_head"):
        return f"{type(unwrap(model)).__name__} has no language-modelling head"
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    return None if rope in ROPE_TYPES else f"rope type {rope} is not one of {sorted(ROPE_TYPES)}"


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """No gradients and no dropout; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


class NativeEngine:
    """Answers from a LlamaHerd or `LlamaForCausalLM` model, see `Engine`.

    Args:
        model: on any one device, possibly wrapped (PEFT, DistributedDataParallel).
        max_cached_tokens: bound on tokens whose keys and values are held at once, counting the room reserved for
            answers. A single answer is always taken, even where it alone exceeds the bound.

    Raises:
        ValueError: the model is not a Llama, or the bound is not positive.
    """

    def __init__(self, model: torch.nn.Module, max_cached_tokens: int = 65536):
        reason = why_not_native(model)
        if reason:
            raise ValueError(f"the native engine cannot run this model: {reason}")
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
        """See `Engine.generate`. An answer depends on its prompt, the parameters and its key, not on what else is asked
        (up to rounding: sums may be ordered differently in batches of different sizes)."""
        keys = prepare_keys(prompts, params, unwrap(self.model).config, keys)
        if not prompts:
            return []
        answers: list[list] = [[None] * params.n for _ in prompts]
        longest = max(map(len, prompts)) + params.max_new_tokens
        with inference(self.model), Progress(len(prompts) * params.n, progress) as bar:
            decoder = Decoder(unwrap(self.model), params, stop_ids, longest)
            for prompt, index, answer in self._run(decoder, _split(prompts, params, self.max_cached_tokens), keys):
                answers[prompt][index] = answer
                bar.add([answer])
        return answers

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        stop_ids: set[int],
        each: Callable[[int], None],
        key: int = 0,
    ) -> Answer:
        """One answer, the one that `generate` gives for this key; `each` is called with every id as it is drawn.

        Raises:
            ValueError: as `generate` does, or more than one answer is asked for.
        """
        if params.n != 1:
            raise ValueError(f"n: found {params.n}, expected 1 answer to be streamed")
        keys = prepare_keys([prompt], params, unwrap(self.model).config, [key])
        with inference(self.model):
            decoder = Decoder(unwrap(self.model), params, stop_ids, len(prompt) + params.max_new_tokens)
            cohort = decoder.start([Job(0, prompt, 0, 1)], keys)
            while not (ended := list(decoder.draw([cohort]))):
                each(int(cohort.last_R[0]))
                decoder.step([cohort])
            ((_, _, answer),) = ended
        each(answer.ids[-1])
        return answer

    def _run(self, decoder: "Decoder", waiting: deque[Job], keys: Sequence[int]) -> Iterator[tuple[int, int, Answer]]:
        cohorts: list[Cohort] = []
        while waiting or cohorts:
            new = [decoder.start(jobs, keys) for jobs in self._admit(waiting, cohorts, decoder.params.max_new_tokens)]
            if new:
                yield from decoder.draw(new)
            if cohorts:
                decoder.step(cohorts)
                yield from decoder.draw(cohorts)
            cohorts = [cohort for cohort in cohorts + new if len(cohort)]

    def _admit(self, waiting: deque[Job], cohorts: list[Cohort], max_new: int) -> list[list[Job]]:
        """Take jobs off the queue that fit the free room, in groups of prompts of about one length.

        Every cohort costs operator calls at every step, so room is left to gather until a quarter of the cache is free.
        """
        free = self.max_cached_tokens - sum(cohort.cached_tokens for cohort in cohorts)
        if not waiting or (cohorts and 4 * free < self.max_cached_tokens):
            return []
        groups: list[list[Job]] = []
        while waiting and (waiting[0].cached_tokens(max_new) <= free or not (cohorts or groups)):
            longest = len(groups[-1][0].ids) if groups else 0
            if groups and len(waiting[0].ids) >= min(longest - 32, 3 * longest // 4):
                needed = longest + waiting[0].count * max_new  # the prompt is padded to the first of its group
                if needed > free:
                    break
                groups[-1].append(waiting.popleft())
                free -= needed
            else:
                groups.append([waiting.popleft()])
                free -= groups[-1][0].cached_tokens(max_new)
        return groups


def _split(prompts: Sequence[Sequence[int]], params: SamplingParams, room: int) -> deque[Job]:
    """The work, longest prompt first; a prompt whose answers exceed the room by themselves becomes several jobs."""
    jobs: deque[Job] = deque()
    for prompt in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        most = min(params.n, max(1, (room - len(prompts[prompt])) // params.max_new_tokens))
        for first in range(0, params.n, most):
            jobs.append(Job(prompt, prompts[prompt], first, min(most, params.n - first)))
    return jobs


class Decoder:
    """The Llama forward pass over packed tokens and over rows that belong to cohorts, for one call of `generate`."""

    def __init__(self, model: torch.nn.Module, params: SamplingParams, stop_ids: set[int], longest: int):
        config, self.backbone, self.head = model.config, model.model, model.lm_head
        self.params = params
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.device = self.backbone.embed_tokens.weight.device
        self.stop = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=self.device)
        self.vocabulary, self.rows_at_once = config.vocab_size, max(1, SCORES_AT_ONCE // config.vocab_size)
        hidden = torch.empty(1, 1, dtype=self.backbone.norm.weight.dtype, device=self.device)
        cos, sin = self.backbone.rotary_emb(hidden, torch.arange(longest, device=self.device)[None])
        half = self.size // 2  # sine negated in the first half, so that rotating needs no negation
        self.cos_LK, self.sin_LK = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)

    def _forward(
        self, ids_N: Tensor, positions_N: Tensor, attend: Callable[..., Tensor], wanted: Tensor | None = None
    ) -> Tensor:
        """Return hidden_ND, of the wanted tokens only if given.

        `attend(layer, q_NHK, k_NJK, v_NJK)` returns out_NHK and is the only place where rows meet.
        """
        x_ND = self.backbone.embed_tokens(ids_N)
        # a table entry for every head: broadcast over heads, products take several times as long
        tables = [
            table[positions_N][:, None].expand(-1, heads, -1).contiguous()
            for heads in (self.heads, self.kv_heads)
            for table in (self.cos_LK, self.sin_LK)
        ]
        last = len(self.backbone.layers) - 1
        for i, layer in enumerate(self.backbone.layers):
            block, h_ND = layer.self_attn, layer.input_layernorm(x_ND)
            with _linears(h_ND):
                q_NHK, k_NJK, v_NJK = (
                    proj(h_ND).unflatten(-1, (-1, self.size)) for proj in (block.q_proj, block.k_proj, block.v_proj)
                )
            out_NHK = attend(i, _rotate(q_NHK, *tables[:2]), _rotate(k_NJK, *tables[2:]), v_NJK)
            if i == last and wanted is not None:
                x_ND, out_NHK = x_ND[wanted], out_NHK[wanted]
            with _linears(x_ND):
                x_ND = x_ND + block.o_proj(out_NHK.flatten(1))
                x_ND = x_ND + layer.mlp(layer.post_attention_layernorm(x_ND))
        return self.backbone.norm(x_ND)

    def start(self, jobs: list[Job], keys: Sequence[int]) -> Cohort:
        """Prefill the jobs' prompts, packed without padding, and return them as a cohort."""
        layers, longest = len(self.backbone.layers), len(jobs[0].ids)
        prefix_2YBJPK = self.cos_LK.new_zeros(2, layers, len(jobs), self.kv_heads, longest, self.size)
        hidden, begin = [], 0
        for end in _packs([len(job.ids) for job in jobs]):
            hidden.append(self._prefill([job.ids for job in jobs[begin:end]], prefix_2YBJPK[:, :, begin:end]))
            begin = end
        rows = [(keys[job.prompt], job.first + i) for job in jobs for i in range(job.count)]
        streams = answer_streams(self.params.seed, *zip(*rows, strict=True), device=self.device)
        return Cohort(jobs, prefix_2YBJPK, torch.cat(hidden), streams, self.params.max_new_tokens)

    def _prefill(self, prompts: list[Sequence[int]], prefix_2YBJPK: Tensor) -> Tensor:
        """Fill in the keys and values of some prompts and return hidden_BD of their last tokens."""
        lengths = [len(ids) for ids in prompts]

        def store(layer: int, *kv: Tensor) -> None:
            for stored_BJPK, x_NJK in zip(prefix_2YBJPK[:, layer], kv, strict=True):
                for b, x_LJK in enumerate(x_NJK.split(lengths)):
                    stored_BJPK[b, :, : lengths[b]] = x_LJK.transpose(0, 1)

        ends_B = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        return self.read([token for ids in prompts for token in ids], Segments.documents(lengths), ends_B, store)

    def read(self, ids: list[int], segments: Segments, wanted: Tensor, store: Callable | None = None) -> Tensor:
        """Hidden states of the wanted tokens among packed ones; `store(layer, k_NJK, v_NJK)` sees keys and values."""

        def attend(layer: int, *qkv: Tensor) -> Tensor:
            if store is not None:
                store(layer, *qkv[1:])
            q_1HNK, k_1JNK, v_1JNK = (x.transpose(0, 1)[None] for x in qkv)
            return segment_attention(q_1HNK, k_1JNK, v_1JNK, segments, self.size**-0.5)[0].transpose(0, 1)

        ids_N = torch.tensor(ids, device=self.device)
        return self._forward(ids_N, segments.positions().to(self.device), attend, wanted)

    def step(self, cohorts: list[Cohort]):
        """Run the last token of every row through the model."""
        sizes = [len(cohort) for cohort in cohorts]
        for cohort in cohorts:
            cohort.begin_step()

        def attend(layer: int, q_NHK: Tensor, k_NJK: Tensor, v_NJK: Tensor) -> Tensor:
            qkv = (q_NHK.unflatten(1, (self.kv_heads, -1)), k_NJK, v_NJK)
            parts = zip(cohorts, *(x.split(sizes) for x in qkv), strict=True)
            out = [cohort.attend(layer, *part) for cohort, *part in parts]
            return (out[0] if len(out) == 1 else torch.cat(out)).flatten(1, 2)

        ids_N, positions_N = (torch.cat([getattr(c, name) for c in cohorts]) for name in ("last_R", "positions_R"))
        hidden_ND = self._forward(ids_N, positions_N, attend)
        for cohort, hidden_RD in zip(cohorts, hidden_ND.split(sizes), strict=True):
            cohort.hidden_RD = hidden_RD

    def draw(self, cohorts: list[Cohort]) -> Iterator[tuple[int, int, Answer]]:
        """Draw one token for every row; yields the answers this completes as (prompt, index, answer)."""
        for cohort in cohorts:
            context = cohort.context_RC if self.params.repetition_penalty != 1 else None
            drawn = []
            for begin in range(0, len(cohort), self.rows_at_once):
                rows = slice(begin, begin + self.rows_at_once)
                streams = cohort.streams_R[rows]
                with _linears(cohort.hidden_RD, self.vocabulary):
                    scores_NV = self.head(cohort.hidden_RD[rows]).float()
                drawn.append(
                    choose(
                        scores_NV,
                        self.params,
                        streams,
                        torch.full_like(streams, cohort.steps),
                        None if context is None else context[rows],
                    )
                )
            yield from cohort.record(*(torch.cat(x) for x in zip(*drawn, strict=True)), self.stop)


def _linears(x_ND: Tensor, outputs: int | None = None):
    """A context for linear layers of stock models, which LlamaHerd's enter by themselves."""
    return fast_products(x_ND, if_worth=worth_routing(x_ND, outputs or x_ND.shape[-1]))


def _rotate(x_NHK: Tensor, cos_NHK: Tensor, sin_NHK: Tensor) -> Tensor:
    half = x_NHK.shape[-1] // 2
    return torch.addcmul(x_NHK * cos_NHK, torch.cat((x_NHK[..., half:], x_NHK[..., :half]), -1), sin_NHK)


def _packs(lengths: list[int]) -> Iterator[int]:
    """Where to cut a list of prompts into packs of at most PREFILL_TOKENS (or one prompt)."""
    total = 0
    for i, length in enumerate(lengths):
        if total and total + length > PREFILL_TOKENS:
            yield i
            total = 0
        total += length
    yield len(lengths)

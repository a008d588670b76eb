"""The same interface on vLLM: a checkpoint on disk, and a process of its own for the weights."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoConfig

from ..models import LlamaHerdConfig
from ..models.convert import convert
from .engine import Answer, Likelihood, SamplingParams, prepare_keys
from .streams import answer_streams


class VLLMEngine:
    """Answers from a checkpoint through vLLM, see `Engine`. A prompt's stream is named by seed and key.

    vLLM knows Llama, not LlamaHerd: a folder of the latter is shown to it in Llama's form, its weights linked.

    Args:
        model: path or hub name of the checkpoint.
        options: passed to `vllm.LLM`.

    Raises:
        ImportError: vllm is not installed.
        ValueError: `model` is not a path, or on processors its heads are of a size that vLLM has no attention for.
    """

    def __init__(self, model: str | PathLike, **options):
        if not isinstance(model, (str, PathLike)):
            raise ValueError(f"the vllm engine takes the path of a checkpoint, found a {type(model).__name__}")
        try:
            import vllm
        except ImportError as error:
            raise ImportError("the vllm engine needs vLLM: pip install 'llama_align[vllm]'") from error
        self._vllm = vllm
        self.config = AutoConfig.from_pretrained(model)
        _check_head_size(model, self.config)
        if isinstance(self.config, LlamaHerdConfig) and Path(model).is_dir():
            self._view = TemporaryDirectory(prefix="llama_align-")  # for as long as the engine
            model = convert(model, Path(self._view.name) / Path(model).resolve().name, to="llama", link=True)
        # raw: before penalty and temperature, as in Answer
        self._llm = vllm.LLM(str(model), skip_tokenizer_init=True, logprobs_mode="raw_logprobs", **options)
        if longest := options.get("max_model_len"):
            self.config.max_position_embeddings = min(longest, getattr(self.config, "max_position_embeddings", longest))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        stop_ids: set[int],
        progress: bool = False,
        keys: Sequence[int] | None = None,
    ) -> list[list[Answer]]:
        """See `Engine.generate`."""
        keys = prepare_keys(prompts, params, self.config, keys)
        if not prompts:
            return []
        requests = [
            self._vllm.SamplingParams(
                n=params.n,
                max_tokens=params.max_new_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                min_p=params.min_p,
                repetition_penalty=params.repetition_penalty,
                seed=int(stream) & 0x7FFFFFFF,
                stop_token_ids=sorted(stop_ids),
                ignore_eos=True,
                detokenize=False,
                logprobs=0,
            )
            for stream in answer_streams(params.seed, keys, [0] * len(keys))
        ]
        texts = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = self._llm.generate(texts, requests, use_tqdm=progress)
        return [[_read(answer) for answer in sorted(out.outputs, key=lambda a: a.index)] for out in outputs]

    def likelihoods(self, sequences: Sequence[Sequence[int]], given: Sequence[int]) -> list[Likelihood]:
        """See `continuations.likelihoods`; one token more than is read is drawn, as vLLM draws at least one."""
        request = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        texts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._llm.generate(texts, [request] * len(texts), use_tqdm=False)
        found = []
        for ids, n, out in zip(sequences, given, outputs, strict=True):
            read = [by_id[token] for token, by_id in zip(ids[n:], out.prompt_logprobs[n:], strict=True)]
            found.append(Likelihood(sum(one.logprob for one in read), all(one.rank == 1 for one in read)))
        return found


def _check_head_size(model: str | PathLike, config) -> None:
    """Raises ValueError for heads that vLLM refuses on processors, which it says as late as in its first step."""
    from vllm.platforms import current_platform

    found = getattr(config, "head_dim", None)
    if found is None or not current_platform.is_cpu():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if found not in sizes:
        expected = f"one of {', '.join(map(str, sizes))}"
        raise ValueError(
            f"{model}, field 'head_dim': found {found}, expected {expected}: vLLM has no other on processors"
        )


def _read(answer) -> Answer:
    ids = list(answer.token_ids)
    logprobs = [by_id[token].logprob for token, by_id in zip(ids, answer.logprobs, strict=True)]
    return Answer(ids, logprobs, answer.finish_reason == "stop")

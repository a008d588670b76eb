"""What the recipes that sample share: the options of their engine, checked, and one checkpoint in memory at a time."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..runtime.identity import resolved_dtype
from ..sampling.dialogs import DialogSampler
from ..sampling.memory import release
from . import checkpoints
from .adapters import adapter_of
from .errors import RecipeError

DTYPES = ("auto", "float32", "bfloat16")
SET_BY_US = ("model", "skip_tokenizer_init", "logprobs_mode")


@dataclass(frozen=True)
class EngineSettings:
    """Which engine samples, and how.

    Args:
        engine: see `make_engine`. dtype: of the weights; `auto`: the checkpoint's. options: of `vllm.LLM`, where a
            `dtype` wins over the other.
        max_cached_tokens: bound of the other engines on the tokens they hold at once; None: their own.

    Raises:
        RecipeError: an option that is wrong, or without effect on this engine.
    """

    engine: str = "auto"
    dtype: str = "auto"
    options: dict = field(default_factory=dict)
    max_cached_tokens: int | None = None

    def __post_init__(self):
        check_dtype(self.dtype)
        if not isinstance(self.options, dict):
            raise RecipeError(f"engine_options: found {self.options!r}, expected options of vllm.LLM by name")
        if self.options and self.engine != "vllm":
            found = f"{', '.join(self.options)} with engine {self.engine}"
            raise RecipeError(f"engine_options: found {found}, expected none; they are passed to vLLM alone")
        if ours := [name for name in SET_BY_US if name in self.options]:
            raise RecipeError(f"engine_options: found {ours[0]}, expected none that is set here")
        most = self.max_cached_tokens
        if most is not None and (self.engine == "vllm" or most < 1):
            found = f"{most} with engine {self.engine}"
            raise RecipeError(
                f"max_cached_tokens: found {found}, expected a number of at least 1, and none with vllm, whose "
                "engine_options have gpu_memory_utilization"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on."""
        return asdict(self)

    def sampler_options(self, path: str) -> dict[str, Any]:
        """What `DialogSampler` passes to the engine of a checkpoint."""
        if self.engine == "vllm":  # whose own `auto` makes float32 float16
            return {"dtype": resolved_dtype(self.dtype, path)} | self.options
        return {} if self.max_cached_tokens is None else {"max_cached_tokens": self.max_cached_tokens}

    def model(self, path: str, tokenizer):
        """What the engine samples from: the model itself, or for vLLM the path of the checkpoint.

        Raises:
            RecipeError: an adapter for vLLM, which would sample from its base alone.
        """
        if self.engine != "vllm":
            return self.load(path, tokenizer)
        checkpoints.check_checkpoint(path, "causal")
        if adapter_of(path):
            raise RecipeError(
                f"{path}: found an adapter, expected a whole checkpoint for engine vllm; llama-align convert "
                "writes it merged"
            )
        return path

    def sampler(self, path: str) -> DialogSampler:
        """Answers from a checkpoint, with the tokenizer beside it; raises as `model` does."""
        tokenizer = checkpoints.load_tokenizer(path)
        model = self.model(path, tokenizer)
        return DialogSampler(model, tokenizer, self.engine, **self.sampler_options(path))

    def load(self, path: str, tokenizer):
        """The model on this process's device."""
        return checkpoints.on_device(checkpoints.load_model(path, tokenizer=tokenizer, dtype=self.dtype))

    def context(self, path: str) -> float:
        """Tokens of prompt and answer together."""
        return min(checkpoints.context_of(path), self.options.get("max_model_len") or float("inf"))


@dataclass(kw_only=True)
class EngineOptions:
    """What a recipe that samples takes in its YAML for its engine."""

    engine: str = field(default="auto", metadata={"help": "auto, native, transformers or vllm"})
    engine_options: dict = field(
        default_factory=dict, metadata={"help": "of vllm.LLM: tensor_parallel_size, gpu_memory_utilization, ..."}
    )
    dtype: str = field(default="auto", metadata={"help": "of all models: float32, bfloat16, or auto: their own"})

    def engine_settings(self) -> EngineSettings:
        """Raises RecipeError as `EngineSettings` does."""
        return EngineSettings(self.engine, self.dtype, self.engine_options)


@dataclass(kw_only=True)
class CachedEngineOptions(EngineOptions):
    max_cached_tokens: int | None = field(default=None, metadata={"help": "held at once, not by vllm; None: 65536"})

    def engine_settings(self) -> EngineSettings:
        return replace(super().engine_settings(), max_cached_tokens=self.max_cached_tokens)


def check_dtype(name: str) -> None:
    """Raises RecipeError for a type of weights that nothing here is run in."""
    if name not in DTYPES:
        raise RecipeError(f"dtype: found {name!r}, expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")


class Samplers:
    """The sampler of a checkpoint. One is held, and given up before another is loaded."""

    def __init__(self, load: Callable[[str], DialogSampler]):
        self._load = load
        self._held: tuple[str, DialogSampler] | None = None

    def __call__(self, checkpoint: str) -> DialogSampler:
        if self._held is None or self._held[0] != checkpoint:
            self.drop()
            self._held = checkpoint, self._load(checkpoint)
        return self._held[1]

    def drop(self) -> None:
        """Gives up the one that is held."""
        if self._held is not None:
            self._held = None
            release()

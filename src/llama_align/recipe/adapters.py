"""Adapters: what one stands on, merged into it, or trained further.

Knows nothing of recipes; a checkpoint without an adapter is none of its business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import cached_file, find_adapter_config_file

from ..runtime.identity import adapter_base, base_revision
from .errors import RecipeError
from .quantised import Rounding, read_rounding

WEIGHTS = "adapter_model.safetensors"
TASKS = {"causal": "CAUSAL_LM", "reward": "SEQ_CLS"}


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk or on the Hub, and the checkpoint it stands on."""

    path: str
    revision: str | None
    base: str
    base_revision: str | None
    weights: str
    rounding: Rounding | None = None  # of its base in training

    @property
    def folder(self) -> str:
        """Where its files lie: its path, or the revision's in the Hub's cache."""
        return str(Path(self.weights).parent)

    @property
    def tensors(self) -> set[str]:
        """The names of its tensors."""
        with safe_open(self.weights, framework="pt") as file:
            return set(file.keys())

    @property
    def kind(self) -> str:
        """`"reward"` where it carries a score head, or else `"causal"`."""
        return "reward" if any(name.endswith("score.weight") for name in self.tensors) else "causal"


def adapter_of(path: str, revision: str | None = None) -> Adapter | None:
    """The adapter in a folder or a repository of the Hub; None where there is none.

    Raises:
        RecipeError: one that names no base, has no safetensors weights, or lies in one folder with a whole model.
    """
    file = find_adapter_config_file(path, revision=revision)
    if file is None:
        return None
    folder = Path(file).parent
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise RecipeError(f"{folder}: found an adapter and a whole model in one folder, expected one of them")
    base = adapter_base(folder)
    if not isinstance(base, str) or not base:
        raise RecipeError(f"{file}, field 'base_model_name_or_path': found {base!r}, expected the adapter's base")
    weights = folder / WEIGHTS
    if not Path(path).is_dir():
        found = cached_file(path, WEIGHTS, revision=revision, _raise_exceptions_for_missing_entries=False)
        weights = Path(found) if found else weights
    if not weights.is_file():
        raise RecipeError(f"{path}: found no {WEIGHTS} beside adapter_config.json, expected the adapter's weights")
    return Adapter(path, revision, base, base_revision(folder), str(weights), read_rounding(file))


def merged(adapter: Adapter, kind: str, load: Callable[[str, str | None], PreTrainedModel]) -> PreTrainedModel:
    """The base that `load` gives for path and revision, with the adapter's weights folded into it.

    Raises:
        RecipeError: a quantised base, which merging would round without a word; an adapter that cannot be merged or is
            of another kind of model; weights that ZeRO-3 has shared out.
    """
    if is_deepspeed_zero3_enabled():
        raise RecipeError(
            f"{adapter.path}: found an adapter, expected a whole checkpoint under ZeRO-3; llama-align convert "
            "writes it merged"
        )
    model = load(adapter.base, adapter.base_revision)
    if getattr(model, "is_quantized", False):
        raise RecipeError(f"{adapter.path}: found the quantised base {adapter.base}, expected none to merge into")
    with torch.random.fork_rng():  # an adapter's random start, overwritten at once, must move no other number
        wrapped = _attached(model, adapter, kind, task=None, trainable=False)
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        found = wrapped.peft_config["default"].peft_type.value
        raise RecipeError(f"{adapter.path}: found an adapter of type {found}, expected one that can be merged")
    model = wrapped.merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model.requires_grad_(True)  # PEFT froze the base


def continued(model: PreTrainedModel, adapter: Adapter, kind: str) -> PeftModel:
    """The base with the adapter on it, to be trained further.

    Raises:
        RecipeError: an adapter of another kind of model, such as a policy's where a reward model is trained.
    """
    task = PeftConfig.from_pretrained(adapter.path, revision=adapter.revision).task_type
    if task != TASKS[kind]:
        raise RecipeError(
            f"adapter: found continue with an adapter for {task} in {adapter.path}, expected one for {TASKS[kind]}; "
            "merge starts from it all the same"
        )
    return _attached(model, adapter, kind, task, trainable=True)


def _attached(model: PreTrainedModel, adapter: Adapter, kind: str, task: str | None, trainable: bool) -> PeftModel:
    config = PeftConfig.from_pretrained(adapter.path, revision=adapter.revision)
    config.task_type, config.base_model_name_or_path = task, adapter.base
    try:
        wrapped = PeftModel.from_pretrained(
            model, adapter.path, config=config, is_trainable=trainable, revision=adapter.revision
        )
    except (RuntimeError, KeyError, ValueError) as error:  # other shapes; modules or tensors that are not there
        found = " ".join(str(error).split())[:300]
        raise RecipeError(
            f"{adapter.path}: found an adapter that does not fit {adapter.base} ({found}), expected one made for it"
        ) from error
    wanted, found = set(get_peft_model_state_dict(wrapped)), adapter.tensors
    if missing := sorted(wanted - found):
        raise RecipeError(f"{adapter.weights}: found no tensor {missing[0]}, expected those of {type(model).__name__}")
    # a score takes the place of the next token's scores
    odd = sorted(name for name in found - wanted if kind == "causal" or "lm_head" not in name)
    if odd:
        raise RecipeError(
            f"{adapter.weights}: found tensor {odd[0]}, which {type(model).__name__} has no place for; expected none"
        )
    return wrapped

"""Where a training run starts: a checkpoint, or an adapter's weights folded into their base, in the type asked for.

Knows TRL's `ModelConfig`; knows nothing of losses.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from peft import get_peft_model
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import align_special_tokens
from trl import ModelConfig, get_peft_config

from ..chat.adding import add_tokens
from ..models.tensor_files import LICENCES
from ..runtime.files import write_json
from ..runtime.identity import ADAPTER, BASE, MERGED, adapter_base, checkpoint_digest, checkpoint_dtype
from ..runtime.sharding import outside_zero3
from .adapters import Adapter, adapter_of, continued
from .checkpoints import (
    check_base,
    check_length,
    context_of,
    has_tokenizer,
    load_model,
    load_tokenizer,
    outputs_of,
)
from .errors import RecipeError
from .quantised import OF_4BIT as ROUNDING_OF_4BIT
from .quantised import Rounding, check_rounding, loading, rounding_of, write_rounding
from .unused import default_of
from .whole import check_checkpoint

POLICIES = ("merge", "continue", "refuse")
OF_LORA = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"),
    *("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"),
)
OF_4BIT = (*ROUNDING_OF_4BIT, "bnb_4bit_quant_storage")
# fields of PEFT's LoraConfig by ours
SAME = {
    **{"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora"},
    **{"use_dora": "use_dora", "lora_target_parameters": "target_parameters"},
    **{"lora_modules_to_save": "modules_to_save", "lora_target_modules": "target_modules"},
}


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig`, and what becomes of an adapter that a run starts from."""

    dtype: str | None = field(
        default=None,
        metadata={
            "help": "type of the weights in training; auto: that of the checkpoint (default: float32 in training, and "
            "saved in the checkpoint's type)",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    adapter: str = field(
        default="merge",
        metadata={
            "help": "an adapter that training starts from: merge (its weights are folded into its base first), "
            "continue (it is trained further) or refuse"
        },
    )

    add_control_tokens: bool = field(
        default=False,
        metadata={
            "help": "give the checkpoint the control tokens of Llama 3 that its tokenizer lacks before training (as "
            "llama-align add-tokens does); with LoRA their rows are learned only where lora_modules_to_save names them"
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.adapter not in POLICIES:
            raise ValueError(f"adapter: found {self.adapter!r}, expected {', '.join(POLICIES[:-1])} or {POLICIES[-1]}")
        quantised = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(self, name)), None)
        if quantised and not self.use_peft and self.adapter != "continue":
            raise ValueError(f"{quantised}: found true without use_peft, expected it; only adapters are trained")
        for names, switch in ((OF_LORA, "use_peft"), (OF_4BIT, "load_in_4bit")):
            for name in () if getattr(self, switch) else names:
                if (found := getattr(self, name)) != default_of(ModelArguments, name):
                    raise ValueError(f"{name}: found {found!r} without {switch}, expected {switch}: true")


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run starts from, and how it is loaded.

    Args:
        path: of a whole checkpoint, or of the adapter that is trained further. dtype: of the weights in training.
        saved_dtype: of those that the run leaves; None: as they were trained.
    """

    options: ModelArguments
    path: str
    revision: str | None
    trust_remote_code: bool
    dtype: str
    saved_dtype: str | None
    adapter: Adapter | None
    compute_dtype: str

    @classmethod
    def of(cls, options: ModelArguments, training, kind: str = "causal") -> "Start":
        """The start of a run; where it is an adapter to be merged, its whole weights are in `base/` afterwards.

        Args:
            kind: of model that is trained, see `load_model`.

        Raises:
            RecipeError: an option that cannot be honoured, or an adapter where `adapter` says refuse.
        """
        path = options.model_name_or_path
        if not path:
            raise RecipeError("model_name_or_path: found none, expected a checkpoint to start from")
        revision = _revision(options)
        if revision and os.path.isdir(path):
            raise RecipeError(f"model_revision: found {revision!r} for the folder {path}, expected a name on the Hub")
        check_checkpoint(path, kind)
        code = getattr(training, "trust_remote_code", False)
        found = adapter_of(path, revision)
        adapter = _policy(options, path, found)
        stored = checkpoint_dtype(found.folder) if found else checkpoint_dtype(path, revision)
        if found and options.add_control_tokens:
            raise RecipeError(f"add_control_tokens: found true for the adapter {path}, expected a whole checkpoint")
        dtype = {None: "float32", "auto": stored}.get(options.dtype, options.dtype)
        _check_rounding(rounding_of(options, dtype), adapter)
        if found and not adapter:
            with outside_zero3():
                path, revision = _merged_base(found, training.output_dir, code), None
        if options.add_control_tokens:
            path, revision = _extended_base(path, training.output_dir), None
        return cls(
            options=options,
            path=path,
            revision=revision,
            trust_remote_code=code,
            dtype=dtype,
            saved_dtype=stored if options.dtype is None else None,
            adapter=adapter,
            compute_dtype="bfloat16" if getattr(training, "bf16", False) else "float32",
        )

    def tokenizer(self, dialogs: bool = True) -> PreTrainedTokenizerBase:
        """The tokenizer beside the checkpoint as it is named; that in `base/` only where tokens were added there.

        Args:
            dialogs: see `load_tokenizer`.
        """
        path, revision = self.options.model_name_or_path, _revision(self.options)
        if self.options.add_control_tokens:
            path, revision = self.path, self.revision
        return load_tokenizer(path, revision, self.trust_remote_code, dialogs)

    def context(self) -> float:
        """Tokens of context."""
        return context_of(self.path, self.revision, self.trust_remote_code)

    def check_length(self, tokens: int | None, option: str) -> None:
        """Raises RecipeError where rows of `tokens` tokens do not fit the context."""
        check_length(self.path, tokens, option, self.revision, self.trust_remote_code)

    @property
    def _loading(self) -> dict:
        options = {"dtype": self.dtype, "trust_remote_code": self.trust_remote_code}
        if self.options.attn_implementation:
            options["attn_implementation"] = self.options.attn_implementation
        return options

    def model(self, kind: str = "causal", tokenizer: PreTrainedTokenizerBase | None = None, **extra):
        """The model to be trained."""
        options = self._loading | extra
        if self.rounding:
            named = self.options.dtype not in (None, "auto")
            compute = self.dtype if named else self.compute_dtype
            options |= loading(self.rounding, compute, self.options.bnb_4bit_quant_storage)
        if self.adapter is None:
            return load_model(self.path, kind, tokenizer, revision=self.revision, **options)
        if kind != "causal":
            options["num_labels"] = outputs_of(self.path, options.get("num_labels"))
        base = load_model(self.adapter.base, kind, tokenizer, revision=self.adapter.base_revision, **options)
        model = continued(base, self.adapter, kind)
        write_rounding(model.peft_config["default"], self.rounding)
        if self.options.use_peft:
            _check_equal(self.options, model.peft_config["default"])
        return model

    def beside(self, path: str, kind: str = "causal", tokenizer: PreTrainedTokenizerBase | None = None):
        """Another model of the run, a reference or a critic, in the same type and with the same attention."""
        return load_model(path, kind, tokenizer, **self._loading)

    def lora(self, reward: bool = False):
        """The configuration of a new adapter, or None; None, too, where one is trained further."""
        wanted = "SEQ_CLS" if reward else "CAUSAL_LM"
        if self.options.lora_task_type not in (wanted, default_of(ModelArguments, "lora_task_type")):
            raise RecipeError(f"lora_task_type: found {self.options.lora_task_type!r}, expected {wanted!r}")
        config = None if self.adapter else lora_config(self.options, reward)
        if config is not None:
            config.revision = self.revision
            write_rounding(config, self.rounding)
        return config

    @property
    def reference_options(self) -> dict | None:
        """What TRL needs to load the start again as a reference, beside its name and what it reads off the policy."""
        return {"revision": self.revision} if self.revision else None

    def adapted(self, model):
        """The model with the new adapter on it, if one is asked for; for a trainer that puts on none itself."""
        config = self.lora()
        if config is None:
            return model
        # as TRL's trainers: what ZeRO-3 shares out is of one type
        return get_peft_model(model, config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())

    @property
    def rounding(self) -> Rounding | None:
        """How the base of the adapter that is trained is rounded, if it is."""
        return rounding_of(self.options, self.dtype)


def lora_config(model_args, reward: bool = False):
    """TRL's LoRA configuration of `ModelConfig`, or None; all linear layers where it names no target.

    Args:
        reward: for a reward model, whose score head is trained and saved whole.
    """
    config = get_peft_config(model_args)
    if config is None:
        return None
    config.target_modules = config.target_modules or "all-linear"
    if reward:
        config.task_type = "SEQ_CLS"
        config.modules_to_save = sorted({*(config.modules_to_save or []), "score"})
    return config


def _policy(options: ModelArguments, path: str, found: Adapter | None) -> Adapter | None:
    """The adapter to be trained further, if any."""
    if found is None:
        if options.adapter == "continue":
            raise RecipeError(f"adapter: found continue, expected merge or refuse; {path} holds no adapter")
        return None
    if options.adapter == "refuse":
        raise RecipeError(f"{path}: found an adapter, expected a whole checkpoint (adapter: refuse)")
    check_base(found)
    return found if options.adapter == "continue" else None


def _revision(options: ModelArguments) -> str | None:
    return None if options.model_revision == default_of(ModelArguments, "model_revision") else options.model_revision


def _check_rounding(rounding: Rounding | None, continued: Adapter | None) -> None:
    """Raises RecipeError for a base that cannot be rounded, or that is another than the adapter was trained on."""
    check_rounding(rounding)
    if continued and continued.rounding and continued.rounding != rounding:
        raise RecipeError(
            f"adapter: found continue with {rounding or 'a base that is not rounded'}, expected {continued.rounding}, "
            f"as when {continued.path} was trained; merge starts from its weights all the same"
        )


def _check_equal(options: ModelArguments, config) -> None:
    """Raises RecipeError where a LoRA configuration is asked for that is not the adapter's."""
    for ours, theirs in SAME.items():
        wanted, found = getattr(options, ours), getattr(config, theirs)
        if ours == "lora_modules_to_save":
            found = [name for name in found or () if name not in ("score", "classifier")]
        if ours in ("lora_target_modules", "lora_target_parameters", "lora_modules_to_save"):
            if not wanted or wanted == "all-linear":
                continue
            wanted, found = ({value} if isinstance(value, str) else set(value or ()) for value in (wanted, found))
        if wanted != found:
            raise RecipeError(
                f"{ours}: found {wanted}, expected {found} as in the adapter that is continued; without use_peft its "
                "own configuration is kept"
            )


def _merged_base(adapter: Adapter, output_dir: str, trust_remote_code: bool) -> str:
    """`base/` in the output directory: the adapter's whole weights, which a new adapter and a reference stand on."""
    folder = Path(output_dir) / BASE
    with PartialState().main_process_first():
        if _merged_from(folder) != checkpoint_digest(adapter.folder):
            write_merged(adapter.path, folder, adapter.revision, trust_remote_code)
    return str(folder)


def _extended_base(path: str, output_dir: str) -> str:
    """`base/` in the output directory: the checkpoint with control tokens, where training and a reference start."""
    folder, digest = Path(output_dir) / BASE, checkpoint_digest(path)
    with PartialState().main_process_first():
        if _merged_from(folder) != digest:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                add_tokens(path, folder)
            except ValueError as error:
                raise RecipeError(f"add_control_tokens: {error}") from error
            write_json(folder / MERGED, {"checkpoint": path, "digest": digest})
    return str(folder)


def _merged_from(folder: Path) -> str | None:
    try:
        return json.loads((folder / MERGED).read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folders_below(folder: Path) -> list[Path]:
    """An adapter's folder and those of what it stands on, as far as they lie here."""
    base = adapter_base(folder) if (folder / ADAPTER).is_file() else None
    return [folder, *(folders_below(Path(base)) if base and Path(base).is_dir() else ())]


def whole_weights(path: str, folder: str | Path) -> str:
    """Where a checkpoint's whole weights are: its path, or for an adapter a merged copy that is put into `folder`."""
    if not adapter_of(path):
        return path
    write_merged(path, Path(folder))
    return str(folder)


def write_merged(path: str, folder: Path, revision: str | None = None, trust_remote_code: bool = False) -> None:
    """An adapter merged into its base as a checkpoint of its own, in the type of the base, with tokenizer and licence.

    Raises:
        RecipeError: one that cannot be merged, see `load_model`.
    """
    adapter = adapter_of(path, revision)
    sources = folders_below(Path(adapter.folder))
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model = load_model(path, adapter.kind, revision=revision, trust_remote_code=trust_remote_code)
    if has_tokenizer(path, revision):
        tokenizer = load_tokenizer(path, revision, trust_remote_code, dialogs=False)
        # the ends that it was trained to write, which transformers' Trainer puts into a whole model as well
        align_special_tokens(model, tokenizer)
        tokenizer.save_pretrained(part)
    model.save_pretrained(part)
    licences = {file.name: file for source in reversed(sources) for rule in LICENCES for file in source.glob(rule)}
    for name, file in licences.items():
        shutil.copyfile(file, part / name)
    write_json(part / MERGED, {"adapter": path, "digest": checkpoint_digest(adapter.folder)})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)

"""Llama's configuration and LlamaHerd's: reading either from `config.json`, writing one as the other."""

from copy import deepcopy
from pathlib import Path

import torch

from .configuration_llama_herd import LlamaHerdConfig
from .tensor_files import ConvertError, read_object

PREFIXES = {"llama": "Llama", "herd": "LlamaHerd"}  # form -> how the names of its classes begin
MODEL_TYPES = {"llama": "llama", "herd": LlamaHerdConfig.model_type}
KINDS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
LEGACY = ("rope_theta", "rope_scaling", "torch_dtype")  # as transformers 4 writes rope_parameters and dtype
HINTS = {
    "params.json": " (params.json is that of Meta's own form)",
    "adapter_config.json": " (it is an adapter, which the command `llama-align convert` merges)",
}


def read_config(source: Path) -> dict:
    """The fields of a checkpoint's `config.json`.

    Raises:
        ConvertError: no such file, or none of a checkpoint that can be converted.
    """
    path = source / "config.json"
    if not source.is_dir():
        raise ConvertError(f"{source}: found no such folder, expected a checkpoint's; `hf download` fetches one")
    if not path.is_file():
        hints = [hint for name, hint in HINTS.items() if (source / name).is_file()]
        raise ConvertError(
            f"{source}: found no config.json{''.join(hints)}, expected a checkpoint in transformers' form"
        )
    config = read_object(path)
    if config.get("quantization_config"):
        raise ConvertError(f"{path}, field 'quantization_config': found one, expected weights that are not quantized")
    return config


def form_and_kind(path: Path, config: dict) -> tuple[str, str]:
    """`"llama"` or `"herd"`, and how the architecture's name ends; a causal language model where it names none.

    Raises:
        ConvertError: another model type or architecture.
    """
    found = config.get("model_type")
    form = next((form for form, name in MODEL_TYPES.items() if name == found), None)
    if form is None:
        expected = " or ".join(repr(name) for name in MODEL_TYPES.values())
        raise ConvertError(f"{path}, field 'model_type': found {found!r}, expected {expected}")
    found = config.get("architectures") or ["LlamaForCausalLM"]
    # the first Llama checkpoints say LLaMAForCausalLM
    kinds = {(PREFIXES[form] + kind).lower(): kind for kind in KINDS} | {"llamaforcausallm": "ForCausalLM"}
    if len(found) != 1 or found[0].lower() not in kinds:
        expected = ", ".join(PREFIXES[form] + kind for kind in KINDS)
        raise ConvertError(f"{path}, field 'architectures': found {found}, expected one of {expected}")
    return form, kinds[found[0].lower()]


def full_config(path: Path, config: dict, form: str) -> LlamaHerdConfig:
    """The configuration with every default filled in, from new fields or old ones.

    Raises:
        ConvertError: fields that transformers refuses.
    """
    fields = {name: value for name, value in config.items() if name not in ("auto_map", "model_type")}
    fields = {"token_classification_bias": form == "llama"} | fields  # the default, which differs
    try:
        return LlamaHerdConfig.from_dict(deepcopy(fields))
    except Exception as error:  # of Python, of transformers or of huggingface_hub
        raise ConvertError(
            f"{path}: found fields that make no Llama: {type(error).__name__}: {error}; expected one's"
        ) from error


def rewritten(
    config: dict, full: LlamaHerdConfig, form: str, to: str, kind: str, dtype: torch.dtype | None = None
) -> dict:
    """The fields of `config.json` in the form `to`; those that both forms share stay as they are.

    Args:
        config: the source's fields, in the form `form`.
        full: the same with defaults, see `full_config`.
        kind: the end of the architecture's name.
        dtype: of the written weights, where it changes.
    """
    fields = {name: value for name, value in config.items() if name not in (*LEGACY, "auto_map")}
    fields["architectures"] = [PREFIXES[to] + kind]
    fields["model_type"] = MODEL_TYPES[to]
    fields["rope_parameters"] = dict(full.rope_parameters)
    fields["head_dim"] = full.head_dim
    fields["num_key_value_heads"] = full.num_key_value_heads
    stored = str(dtype).removeprefix("torch.") if dtype else config.get("dtype") or config.get("torch_dtype")
    if stored:
        fields["dtype"] = stored
    if kind == "ForTokenClassification":
        # the defaults differ: LlamaHerd's score head is that of a reward model, without a bias
        fields["token_classification_bias"] = full.token_classification_bias
        fields.setdefault("classifier_dropout", config.get("hidden_dropout", 0.1) if form == "llama" else 0.0)
    if to == "llama":
        # transformers 4 does not know rope_parameters and takes its default of 10000 for rope_theta without a word;
        # so do vLLM and llama.cpp's convert_hf_to_gguf.py where they run on it. Likewise torch_dtype.
        scaling = {name: value for name, value in full.rope_parameters.items() if name != "rope_theta"}
        fields["rope_theta"] = full.rope_parameters["rope_theta"]
        fields["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
        fields |= {"torch_dtype": stored} if stored else {}
    return fields


def readable_tokenizer(fields: dict) -> dict:
    """The fields of `tokenizer_config.json` as transformers 4 and 5 both read them.

    transformers 4 refuses the name that 5 gives its own tokenizer class, and a list under `extra_special_tokens`.
    """
    fields = dict(fields)
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    return fields

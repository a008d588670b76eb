"""Whether a checkpoint is whole and is what its configuration says, seen before anything of it is loaded.

Reads configurations, the tokenizer and the headers of weights; knows nothing of what a recipe does with a model.
"""

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING

from ..models.checking import LM_HEAD, check_tied, differences, shapes_of
from ..models.configuration_llama_herd import LlamaHerdConfig
from ..models.forms import MODEL_TYPES, full_config
from ..models.tensor_files import (
    DTYPES,
    INDEX,
    SINGLE,
    ConvertError,
    Tensor,
    headers_of,
    read_headers,
    read_object,
)
from ..runtime.identity import adapter_base
from .bounds import Bound, Misfit, check_bound, check_type
from .errors import RecipeError
from .positions import ROPE
from .yaml_files import field_name, shortened

CONFIG, ADAPTER, ADAPTER_WEIGHTS = "config.json", "adapter_config.json", "adapter_model.safetensors"
WEIGHTS = (SINGLE, INDEX, ADAPTER_WEIGHTS)
LARGEST_JSON = 256 * 2**20  # bytes, far above any vocabulary
SCORE, SCORE_BIAS = "score.weight", "score.bias"
DTYPE_NAMES = [str(dtype).removeprefix("torch.") for dtype in DTYPES.values()]
SIZE, RANK, SHARE = Bound(1, 2**26), Bound(1, 2**20), Bound(0, 1)
ALPHA = Bound(0, 1e9, above=True)
# fields of a Llama's configuration: type, bound, and whether transformers' default will do where one is missing
FIELDS: dict[str, tuple[Any, Bound | None, bool]] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), (int, SIZE, False)),
    "num_hidden_layers": (int, Bound(1, 2**16), False),
    "max_position_embeddings": (int, Bound(1, 2**31), False),
    **dict.fromkeys(("num_key_value_heads", "head_dim"), (int | None, SIZE, True)),
    "rms_norm_eps": (float, Bound(0, 1, above=True), True),
    "rope_theta": (float, Bound(0, 1e15, above=True), True),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), (dict | None, None, True)),
    **dict.fromkeys(("attention_dropout", "initializer_range"), (float | None, SHARE, True)),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache"), (bool, None, True)),
    "bos_token_id": (int | None, None, True),
    "pad_token_id": (int | None, None, True),
    "eos_token_id": (int | list[int] | None, None, True),
    "architectures": (list[str] | None, None, True),
    **dict.fromkeys(("id2label", "label2id", "auto_map"), (dict | None, None, True)),
    **dict.fromkeys(("dtype", "torch_dtype", "hidden_act"), (str | None, None, True)),
}
# which fields say the shape of a tensor
SAID_BY = {
    r"embed_tokens\.weight|lm_head\.weight": "vocab_size, hidden_size",
    r"self_attn\.[qo]_proj": "num_attention_heads, head_dim, hidden_size",
    r"self_attn\.[kv]_proj": "num_key_value_heads, head_dim, hidden_size",
    r"mlp\.\w+_proj": "intermediate_size, hidden_size",
    r"norm\.weight": "hidden_size",
}
DIFFERENCES = {
    "missing": "found no tensor {}, expected it by",
    "unexpected": "found tensor {}, expected none of that name by",
    "misshapen": "tensor {} by",
    "of another dtype": "tensor {}, whatever say",
}


def is_local(path: str) -> bool:
    """Whether a path names a folder here, there or not, and no repository on the Hub."""
    # "runs/sft" could name a repository, too, unless there is a folder "runs" here
    parent = path.split("/")[0]
    # with ~ or $ it is a path that nobody has expanded; no repository is called so
    unlike = path.startswith((".", "~")) or "$" in path or path.count("/") != 1
    return os.path.isabs(path) or unlike or os.path.exists(parent)


def check_checkpoint(path: str | None, kind: str | None = None, new_head: bool = True) -> None:
    """Looks through a local checkpoint: its files are whole and fit each other, as do those of an adapter's base.

    A name on the Hub is left to its client. Links are followed: snapshots in the Hub's cache are made of them.

    Args:
        kind: what it is to serve as: `"causal"`, `"reward"`, `"value"`, or any of them.
        new_head: whether a reward or value model may start from a checkpoint without a score head.

    Raises:
        RecipeError: names file and field or tensor, what was found and what was expected.
    """
    if not isinstance(path, str | Path) or not str(path).strip():
        raise RecipeError(f"model: found {path!r}, expected the folder of a checkpoint or its name on the Hub")
    if is_local(str(path)):
        _check(Path(path), kind, new_head, ())
        check_tokenizer(path)


def check_overrides(overrides: dict, option: str) -> None:
    """Raises RecipeError for a field that no configuration of a LlamaHerd has, or a value it cannot have."""
    for name, value in overrides.items():
        if name not in (*LlamaHerdConfig.__dataclass_fields__, *ROPE):
            expected = "a field of a LlamaHerd's configuration"
            raise RecipeError(f"{option}, field {shortened(name)!r}: unknown, expected {expected}")
        if name in FIELDS:
            hint, bound, _ = FIELDS[name]
            _check_field(option, name, value, hint, bound)


def check_tokenizer(path: str) -> None:
    """Raises RecipeError where a tokenizer's files in a local folder are broken."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        file = Path(path) / name
        if file.is_file():
            state = file.stat()
            _read_tokenizer_file(file, state.st_size, state.st_mtime_ns)


@cache
def _read_tokenizer_file(file: Path, size: int, mtime_ns: int) -> None:
    # once for each state of a file that is whole: one of 128,000 tokens takes half a second, and is asked for each time
    # its model or tokenizer is loaded
    _object(file)
    try:
        if file.name == "tokenizer.json":
            Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no other class
        raise RecipeError(f"{file}: found what makes no tokenizer ({error}), expected one") from error


def _check(folder: Path, kind: str | None, new_head: bool, above: tuple[Path, ...]) -> Mapping[str, Tensor]:
    """The headers of a checkpoint's weights, or of the base of an adapter."""
    if not os.path.isdir(folder):  # which no length of a name makes raise
        found = "a file" if os.path.exists(folder) else "no such directory"
        raise RecipeError(f"{shortened(str(folder))}: found {found}, expected a checkpoint")
    if not any((folder / name).is_file() for name in WEIGHTS):
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty directory"
        raise RecipeError(f"{folder}: found {found}; expected weights in {' or '.join(WEIGHTS[:2])}")
    if (folder / ADAPTER).is_file():
        return _check_adapter(folder, kind, new_head, above)
    if not (folder / CONFIG).is_file():
        raise RecipeError(f"{folder}: found no {CONFIG}, expected a checkpoint")
    with _named():
        return _check_model(folder, kind, new_head)


@contextmanager
def _named():
    """Errors of the conversion, which reads the same files, as a recipe's, on one line."""
    try:
        yield
    except ConvertError as error:
        raise RecipeError(" ".join(str(error).split())) from error


def _object(path: Path) -> dict:
    if path.stat().st_size > LARGEST_JSON:
        raise RecipeError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {LARGEST_JSON:,}")
    with _named():
        return read_object(path)


# -- whole models


def _check_model(folder: Path, kind: str | None, new_head: bool) -> Mapping[str, Tensor]:
    path = folder / CONFIG
    config = _object(path)
    if (folder / "generation_config.json").is_file():
        _object(folder / "generation_config.json")
    found = config.get("model_type")
    if not isinstance(found, str) or (found not in CONFIG_MAPPING and not config.get("auto_map")):
        raise RecipeError(f"{path}, field 'model_type': found {found!r}, expected one that transformers knows")
    headers = read_headers(folder)
    if config.get("quantization_config"):  # whose tensors are what the quantiser made of them
        return headers
    for name, tensor in headers.items():
        if tensor.dtype not in DTYPES:
            expected = f"one of {', '.join(DTYPES)}"
            raise RecipeError(f"{folder / tensor.file}, tensor {name!r}: found {tensor.dtype}, expected {expected}")
    if found in MODEL_TYPES.values():
        form = next(form for form, name in MODEL_TYPES.items() if name == found)
        _check_fields(path, config)
        _check_tensors(folder, full_config(path, config, form), config, headers, kind, new_head)
    return headers


def _check_fields(path: Path, config: dict) -> None:
    """Raises RecipeError for a field that is missing, of another type or out of bounds."""
    for name, (hint, bound, optional) in FIELDS.items():
        if name not in config:
            if not optional:
                raise RecipeError(f"{path}, field {name!r}: found nothing, expected a whole number")
            continue
        _check_field(path, name, config[name], hint, bound)
    for name in ("dtype", "torch_dtype"):
        if config.get(name) and config[name].removeprefix("torch.") not in DTYPE_NAMES:
            found = f"found {config[name]!r}, expected one of {', '.join(DTYPE_NAMES)}"
            raise RecipeError(f"{path}, field {name!r}: {found}")
    token = Bound(-1, config["vocab_size"] - 1)  # -1: none, in Llama 1
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        _check_field(path, name, config.get(name), Any, token)
    _check_heads(path, config)


def _check_field(path: Path | str, name: str, value: Any, hint: Any, bound: Bound | None) -> None:
    try:
        check_type(value, hint, (name,))
        if bound:
            check_bound(value, bound, (name,))
    except Misfit as error:
        raise RecipeError(f"{path}, field {field_name(error.keys)}: {error}") from error


def _check_heads(path: Path, config: dict) -> None:
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    if heads % groups:
        raise RecipeError(f"{path}, field 'num_key_value_heads': found {groups}, expected a divisor of {heads} heads")
    if config["hidden_size"] % heads:
        found = f"found {heads}, expected a divisor of hidden_size, {config['hidden_size']}"
        raise RecipeError(f"{path}, field 'num_attention_heads': {found}")


def _check_tensors(
    folder: Path, full: LlamaHerdConfig, config: dict, headers: Mapping[str, Tensor], kind: str | None, new_head: bool
) -> None:
    path = folder / CONFIG
    # a model without a head has names without its beginning
    bare = not any(name.startswith("model.") for name in headers)
    named = {f"model.{name}" if bare and not _is_head(name) else name: tensor for name, tensor in headers.items()}
    # counted before as many are made to look up their shapes
    layers = len({m[1] for m in (re.match(r"model\.layers\.(\d+)\.", name) for name in named) if m})
    if layers != full.num_hidden_layers:
        found = f"found {full.num_hidden_layers}, expected {layers}, as many as its weights have"
        raise RecipeError(f"{path}, field 'num_hidden_layers': {found}")
    tied = full.tie_word_embeddings
    shapes = shapes_of(path, full, "ForCausalLM")
    headless = bare or SCORE in named or kind in ("reward", "value")
    optional = [LM_HEAD] if tied or (headless and kind != "causal") else []
    found = differences(shapes, {name: t for name, t in named.items() if name not in (SCORE, SCORE_BIAS)}, optional)
    for title, lines in found.items():
        for line in lines[:1]:
            fields = next((names for pattern, names in SAID_BY.items() if re.search(pattern, line)), "its fields")
            rest = f" ({len(lines)} {title})" if len(lines) > 1 else ""
            raise RecipeError(f"{folder}: {DIFFERENCES[title].format(line)} {fields} in {CONFIG}{rest}")
    if tied and not bare:
        check_tied(folder, headers)
    _check_score(folder, named, config["hidden_size"], kind, new_head)


def _is_head(name: str) -> bool:
    return name in (LM_HEAD, SCORE, SCORE_BIAS)


def _check_score(folder: Path, headers: Mapping[str, Tensor], width: int, kind: str | None, new_head: bool) -> None:
    score = headers.get(SCORE)
    if score is None:
        if kind in ("reward", "value") and not new_head:
            raise RecipeError(f"{folder}: found no {SCORE} among its weights, expected those of a reward model")
        return
    if kind == "causal" and LM_HEAD not in headers:
        raise RecipeError(f"{folder / score.file}: found {SCORE}, of a reward model, expected a language model")
    if len(score.shape) != 2 or score.shape[1] != width or score.shape[0] < 1:
        found = f"found {list(score.shape)}, expected [outputs, {width}], as hidden_size in {CONFIG} says"
        raise RecipeError(f"{folder / score.file}, tensor {SCORE!r}: {found}")
    if kind in ("reward", "value") and score.shape[0] > 2:
        found = f"found {score.shape[0]} outputs, expected a score, and at most a second one for safety"
        raise RecipeError(f"{folder / score.file}, tensor {SCORE!r}: {found}")


# -- adapters


def _check_adapter(folder: Path, kind: str | None, new_head: bool, above: tuple[Path, ...]) -> Mapping[str, Tensor]:
    path, weights = folder / ADAPTER, folder / ADAPTER_WEIGHTS
    if folder.resolve() in above:
        found = "found an adapter that stands on itself, expected a whole checkpoint below it"
        raise RecipeError(f"{path}, field 'base_model_name_or_path': {found}")
    config = _object(path)
    _check_field(path, "peft_type", config.get("peft_type"), str, None)
    if config["peft_type"] == "LORA":
        hints = get_type_hints(LoraConfig)
        for name in sorted(hints.keys() & {n for n, value in config.items() if value is not None} - {"lora_alpha"}):
            _check_field(path, name, config[name], hints[name], None)
        for name, hint, bound in (("r", int, RANK), ("lora_alpha", float, ALPHA), ("lora_dropout", float, SHARE)):
            _check_field(path, name, config.get(name), hint, bound)
    base = adapter_base(folder)
    _check_field(path, "base_model_name_or_path", base, str, None)
    with _named():
        adapted = headers_of(folder, ADAPTER_WEIGHTS) if weights.is_file() else {}
    if not adapted:
        raise RecipeError(f"{weights}: found no tensors, expected those of an adapter")
    if is_local(base) and not os.path.isdir(base):
        found = f"found {shortened(base)!r}, which is no folder, expected the model it was trained on"
        raise RecipeError(f"{path}, field 'base_model_name_or_path': {found}")
    scored = any(name.endswith(SCORE) for name in adapted)
    if kind in ("reward", "value") and not (scored or new_head):
        raise RecipeError(f"{folder}: found no {SCORE} among its weights, expected those of a reward model")
    headers = {}
    if is_local(base):
        headers = _check(Path(base), kind, True, (*above, folder.resolve()))
    _check_adapted(folder, config, adapted, headers)
    return headers


def _check_adapted(folder: Path, config: dict, adapted: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Raises RecipeError for matrices of another rank than the configuration's, or of other sizes than the base's."""
    ranks = config.get("rank_pattern", {})
    _check_field(folder / ADAPTER, "rank_pattern", ranks, dict[str, int], RANK)
    _check_field(folder / ADAPTER, "alpha_pattern", config.get("alpha_pattern", {}), dict[str, float], ALPHA)
    for name, tensor in adapted.items():
        if tensor.dtype not in DTYPES:
            found = f"found {tensor.dtype}, expected one of {', '.join(DTYPES)}"
            raise RecipeError(f"{folder / tensor.file}, tensor {name!r}: {found}")
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if not match or config["peft_type"] != "LORA":
            continue
        rank = ranks.get(get_pattern_key(ranks.keys(), match[1]), config["r"])
        side = 0 if match[2] == "A" else 1
        if len(tensor.shape) != 2 or tensor.shape[side] != rank:
            found = f"found {list(tensor.shape)}, expected rank {rank}, as r in {ADAPTER} says"
            raise RecipeError(f"{folder / tensor.file}, tensor {name!r}: {found}")
        adapts = base.get(f"{match[1]}.weight")
        if base and adapts is None and match[1] not in ("lm_head", "score"):
            found = f"found a matrix for {match[1]}, expected one for a weight of its base"
            raise RecipeError(f"{folder / tensor.file}, tensor {name!r}: {found}")
        if adapts and len(adapts.shape) == 2 and tensor.shape[1 - side] != adapts.shape[1 - side]:
            found = f"found {list(tensor.shape)}, expected a matrix for {list(adapts.shape)}, the weight of its base"
            raise RecipeError(f"{folder / tensor.file}, tensor {name!r}: {found}")

"""A checkpoint as one GGUF file, as llama.cpp reads it: weights in its order, configuration and tokenizer."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..runtime.files import naming
from .checking import LM_HEAD, checked_tensors
from .configuration_llama_herd import LlamaHerdConfig
from .forms import form_and_kind, full_config, read_config
from .gguf_vocabulary import Vocabulary, read_vocabulary
from .tensor_files import DTYPES, ConvertError, Tensor, cast

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # of matrices; vectors are F32
FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
EMBEDDINGS = "model.embed_tokens.weight"
ROPE_TYPES = ("default", "linear", "llama3")


def write_gguf(source: Path, output: Path, dtype: torch.dtype | None = None, overwrite: bool = False) -> Path:
    """Writes a language model and its tokenizer for llama.cpp, a tensor in memory at a time.

    Everything is checked before anything is written, and the file gets its name when it is whole. Rows of q_proj and
    k_proj go from transformers' order of a head, in which the rotary embedding turns feature i with i + D/2, into
    llama.cpp's, where it turns neighbours. Llama 3's frequency scaling becomes the tensor `rope_freqs.weight`.

    Args:
        source: folder of a Llama or a LlamaHerd, see `convert.convert`.
        output: the file, whose name ends in `.gguf`.
        dtype: of matrices: float32, float16 or bfloat16; where None, unchanged. Vectors are written in float32.
        overwrite: whether a GGUF file at `output` is replaced.

    Raises:
        ConvertError: no language model, or a tokenizer or a field that llama.cpp cannot follow.
        ImportError: the package gguf is not installed.
    """
    library = _library()
    config = read_config(source)
    form, kind = form_and_kind(source / "config.json", config)
    if kind != "ForCausalLM":
        found = f"found a {kind.removeprefix('For') or 'model without a head'}"
        raise ConvertError(
            f"{source / 'config.json'}, field 'architectures': {found}, expected a language model for gguf"
        )
    full = full_config(source / "config.json", config, form)
    check_file(output, overwrite)
    _check_fields(source / "config.json", full)
    names, headers = checked_tensors(source, full, kind)
    if full.tie_word_embeddings:
        names = [name for name in names if name != LM_HEAD]
    kinds = {name: _type_of(source, name, headers[name], dtype) for name in names}
    vocabulary = read_vocabulary(source, full.vocab_size)

    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    writer = library.GGUFWriter(part, "llama")
    try:
        with naming(output):
            _add_fields(library, writer, output, full)
            writer.add_file_type(library.LlamaFileType[FILE_TYPES[kinds[EMBEDDINGS]]])
            _add_vocabulary(writer, vocabulary)
            _write_weights(library, writer, source, full, headers, kinds)
            writer.close()
            check_file(output, overwrite)  # again: it may have come in the meantime
            os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    return output


def _library():
    try:
        import gguf
    except ImportError as error:
        raise ImportError("writing GGUF needs the package gguf: pip install 'llama_align[gguf]'") from error
    return gguf


def check_file(output: Path, overwrite: bool) -> None:
    """Raises ConvertError where a GGUF file is not to be written, or what stands there is not to be replaced."""
    if output.suffix != ".gguf":
        raise ConvertError(f"output: found {output}, expected the name of a file that ends in .gguf")
    if not (output.exists() or output.is_symlink()):
        return
    if not overwrite:
        raise ConvertError(f"{output}: found that it exists, expected a new file; --overwrite replaces a GGUF")
    if output.is_symlink() or not output.is_file() or output.open("rb").read(4) != b"GGUF":
        raise ConvertError(f"{output}: found no GGUF file there, expected one; nothing else is replaced")


def _check_fields(path: Path, config: LlamaHerdConfig) -> None:
    """Raises ConvertError for what llama.cpp computes otherwise than transformers, or not at all."""
    rope = config.rope_parameters
    for field, found, fits, expected in (
        ("hidden_act", config.hidden_act, config.hidden_act in ("silu", "swish"), "silu"),
        ("rope_type", rope["rope_type"], rope["rope_type"] in ROPE_TYPES, " or ".join(ROPE_TYPES)),
        ("partial_rotary_factor", part := rope.get("partial_rotary_factor", 1.0), part == 1, "1"),
        ("head_dim", config.head_dim, config.head_dim % 2 == 0, "an even number"),
    ):
        if not fits:
            raise ConvertError(f"{path}, field '{field}': found {found!r}, expected {expected} for gguf")


def _type_of(source: Path, name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if len(tensor.shape) == 1:
        return torch.float32
    wanted = dtype or DTYPES[tensor.dtype]
    if wanted not in TYPES:
        found = "dtype: found float64" if dtype else f"{source / tensor.file}, tensor {name}: found F64 and no dtype"
        raise ConvertError(f"{found}, expected float32, float16 or bfloat16 for gguf")
    return wanted


def _add_fields(library, writer, output: Path, config: LlamaHerdConfig) -> None:
    writer.add_name(output.stem)
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_vocabulary(writer, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    for name, token_id in vocabulary.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(token_id)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _write_weights(
    library, writer, source: Path, config: LlamaHerdConfig, headers: dict[str, Tensor], kinds: dict[str, torch.dtype]
) -> None:
    """Announces all tensors, then writes them in that order."""
    theirs = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    factors = _rope_factors(config)

    def announce(name: str, shape: tuple[int, ...], kind: torch.dtype) -> None:
        size = int(np.prod(shape)) * kind.itemsize
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, library.GGMLQuantizationType[TYPES[kind]])

    if factors is not None:
        announce("rope_freqs.weight", tuple(factors.shape), factors.dtype)
    for name, kind in kinds.items():
        announce(theirs.get_name(name, (".weight", ".bias")), headers[name].shape, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for name, kind in tqdm(kinds.items(), desc="gguf", unit="tensor", disable=None):
        path = source / headers[name].file
        # opened anew for each: pages of a mapped file count as the process's memory until it is closed
        with safe_open(path, framework="pt") as opened:
            numbers = cast(opened.get_tensor(name), kind, f"{path}, tensor {name}")
            writer.write_tensor_data(_reordered(name, numbers, config).view(torch.uint8).numpy())


def _reordered(name: str, rows: torch.Tensor, config: LlamaHerdConfig) -> torch.Tensor:
    """q_proj and k_proj, weights or biases, with feature i of a head's first half beside that of its second."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return rows.contiguous()
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def _rope_factors(config: LlamaHerdConfig) -> torch.Tensor | None:
    """What llama.cpp divides each frequency by: (D/2), float32; None without Llama 3's scaling."""
    if config.rope_parameters["rope_type"] != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return (config.rope_parameters["rope_theta"] ** -steps / scaled).contiguous()

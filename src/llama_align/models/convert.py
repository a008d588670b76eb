"""Checkpoints between Llama's form and LlamaHerd's.

The tensors of both have the same names, shapes and numbers, so weights are copied and configurations rewritten.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from tqdm import tqdm

from .checking import checked_tensors, listed
from .forms import MODEL_TYPES, PREFIXES, form_and_kind, full_config, read_config, readable_tokenizer, rewritten
from .gguf import write_gguf
from .portable import own_sources, write_code
from .tensor_files import (
    BESIDE,
    DTYPES,
    INDEX,
    LICENCES,
    SINGLE,
    ConvertError,
    Tensor,
    can_copy,
    index_metadata,
    parse_size,
    read_index,
    read_object,
    reshard,
    write_shard,
)

DTYPE_NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
FORMS = (*PREFIXES, "gguf")
TEMPLATES = "additional_chat_templates"
# patterns of the files that go with a checkpoint in either form
CARRIED = (*BESIDE, f"{TEMPLATES}/*.jinja", *LICENCES, "recipe.json")  # the last one: how it was made, see publish


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    to: str | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    with_code: bool = False,
    link: bool = False,
) -> Path:
    """Writes the checkpoint of `source` to `output` in another form, with tokenizer and generation settings.

    Everything is checked before anything is written, and what is written gets its name when it is whole. Until then
    it is in a new hidden folder beside `output`, `.NAME.` and eight letters; one that a killed process left may go.

    Args:
        source: folder with `config.json` and safetensors weights, of a Llama of any generation or of a LlamaHerd.
        to: `"herd"` or `"llama"`, or `"gguf"` for llama.cpp's file, see `gguf.write_gguf`; where None, the one of the
            first two that `source` does not have.
        dtype: of the written weights (`"bfloat16"`, ...); where None, unchanged.
        max_shard_size: such as `"5GB"`; where None, the shards are those of the source.
        overwrite: whether a checkpoint at `output` is replaced; not where anything else lies in its folder.
        with_code: whether LlamaHerd's code is written beside the weights, see `portable`.
        link: whether unchanged shards are links to the source's instead of copies; for a passing view.

    Returns:
        `output`.

    Raises:
        ConvertError: no checkpoint of a Llama, tensors that are missing, unexpected or misshapen, or options that do
            not fit.
    """
    source, output = Path(source), Path(output)
    config = read_config(source)
    form, kind = form_and_kind(source / "config.json", config)
    to = to or ("llama" if form == "herd" else "herd")
    dtype = _check_options(to, dtype, with_code)
    if to == "gguf":
        if max_shard_size is not None or link:
            raise ConvertError("max_shard_size, link: found one with gguf, expected neither; a GGUF is one file")
        return write_gguf(source, output, dtype, overwrite)
    largest = None if max_shard_size is None else parse_size(max_shard_size)
    check_output(source, output, overwrite)
    full = full_config(source / "config.json", config, form)
    names, headers = checked_tensors(source, full, kind)
    written = rewritten(config, full, form, to, kind, dtype)
    sizes = {name: headers[name].bytes(dtype) for name in names}
    plan = same_shards(names, headers) if largest is None else reshard(names, sizes, largest)
    metadata, carried = index_metadata(source), _carried(source)
    tokenizer = _tokenizer(source) if to == "llama" else None

    with written_beside(source, output, overwrite) as part:
        _write_weights(part, source, plan, headers, dtype, link)
        write_index(part, plan, sizes, metadata)
        _carry(part, source, carried, tokenizer)
        if with_code:
            written["auto_map"] = write_code(part)
        write_json(part / "config.json", written)
    return output


@contextmanager
def written_beside(source: Path, output: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write a checkpoint into, which gets the name `output` where nothing was raised meanwhile.

    Raises:
        ConvertError: something stands at `output` that is not to be replaced.
    """
    place = output.resolve()
    work = _work_folder(place)
    part = work / place.name
    try:
        part.mkdir()  # which has the usual permissions, unlike the folder around it
        yield part
        check_output(source, output, overwrite)  # again: it may have come, or changed, in the meantime
        _move(part, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_options(to: str, dtype: str | torch.dtype | None, with_code: bool) -> torch.dtype | None:
    if to not in FORMS:
        raise ConvertError(f"to: found {to!r}, expected {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if with_code and to != "herd":
        raise ConvertError(f"with_code: found with form {to}, expected herd; transformers has Llama's code")
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise ConvertError(f"dtype: found {name!r}, expected one of {', '.join(DTYPE_NAMES)}")
    return getattr(torch, name)


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Raises ConvertError where `output` is not apart from `source`, or is there and may not be replaced."""
    ours, theirs = output.resolve(), source.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise ConvertError(f"output: found {output}, expected a folder apart from the source {source}")
    if not (output.exists() or output.is_symlink()):
        return
    if not overwrite:
        raise ConvertError(f"{output}: found that it exists, expected a new folder; --overwrite replaces a checkpoint")
    for path in source.iterdir():
        if ours in path.resolve().parents:
            raise ConvertError(f"{path}: found a link into {output}, expected a source that outlasts its replacement")
    _check_replaced(output)


def _check_replaced(output: Path) -> None:
    """Refuses to replace anything but an empty folder, or one of a checkpoint and nothing besides."""
    refusal = f"{output}: found no checkpoint there, expected one; nothing else is replaced"
    if output.is_symlink() or not output.is_dir():
        raise ConvertError(refusal)
    there = sorted(_names(output))
    if not any(output.iterdir()):
        return
    if "config.json" not in there or not {SINGLE, INDEX} & set(there):
        raise ConvertError(f"{refusal} (it takes config.json and {SINGLE} or {INDEX})")
    try:
        found, index = read_object(output / "config.json").get("model_type"), read_index(output)
    except (ConvertError, OSError) as error:
        raise ConvertError(f"{refusal} ({error})") from error
    if found not in MODEL_TYPES.values():
        raise ConvertError(f"{refusal} (model_type in its config.json: {found!r})")
    shards = {file for file in index.get("weight_map", {}).values() if file.endswith(".safetensors")}
    own = {"config.json", SINGLE, INDEX, *shards, *own_sources()}
    if foreign := [name for name in there if name not in own and not _is_carried(name)]:
        raise ConvertError(
            f"{output}: found more than a checkpoint, expected nothing that convert does not write; move it elsewhere, "
            f"or name another output{listed('not of a checkpoint', foreign)}"
        )


def same_shards(names: list[str], headers: dict[str, Tensor]) -> dict[str, list[str]]:
    """File name -> tensors, as in the source; a file of nothing that is wanted is left out."""
    files = sorted({headers[name].file for name in names})
    return {file: [name for name in names if headers[name].file == file] for file in files}


def _names(folder: Path) -> Iterator[str]:
    """What lies in a folder, other folders with a slash; those of additional chat templates one by one."""
    for path in folder.iterdir():
        if path.name == TEMPLATES and path.is_dir():
            yield from (f"{TEMPLATES}/{inner.name}{'/' * inner.is_dir()}" for inner in path.iterdir())
        else:
            yield f"{path.name}{'/' * path.is_dir()}"


def _is_carried(name: str) -> bool:
    return not name.endswith("/") and any(fnmatchcase(name, pattern) for pattern in CARRIED)


def _carried(source: Path) -> list[str]:
    """The files that go along with the weights.

    Raises:
        ConvertError: a link to nothing.
    """
    names = sorted(filter(_is_carried, _names(source)))
    for name in names:
        if not (source / name).is_file():
            raise ConvertError(f"{source / name}: found a link to nothing, expected a file")
    return names


def _tokenizer(source: Path) -> dict | None:
    path = source / "tokenizer_config.json"
    return readable_tokenizer(read_object(path)) if path.is_file() else None


def _write_weights(part: Path, source: Path, plan: dict[str, list[str]], headers, dtype, link: bool) -> None:
    for file, names in tqdm(plan.items(), desc=part.name, unit="shard", disable=None):
        if not can_copy(source, file, names, headers, dtype):
            write_shard(part / file, source, names, headers, dtype)
        elif link:
            (part / file).symlink_to((source / file).resolve())
        else:
            shutil.copyfile(source / file, part / file)


def write_index(part: Path, plan: dict[str, list[str]], sizes: dict[str, int], metadata: dict) -> None:
    """The index of several shards; none for one."""
    if list(plan) == [SINGLE]:
        return
    places = {name: file for file, names in plan.items() for name in names}
    total = {"total_size": sum(sizes.values())}
    write_json(part / INDEX, {"metadata": metadata | total, "weight_map": places})


def _carry(part: Path, source: Path, names: list[str], tokenizer: dict | None) -> None:
    for name in names:
        (part / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, part / name)
    if tokenizer is not None:
        write_json(part / "tokenizer_config.json", tokenizer)


def write_json(path: Path, content: dict) -> None:
    """JSON in a folder that has no name yet."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")  # as transformers writes it


def _work_folder(output: Path) -> Path:
    """A folder beside `output` that nobody else has, so that it may be removed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))


def _move(part: Path, output: Path) -> None:
    """Gives a whole checkpoint its name; one that had it goes only then, and has it back where that fails."""
    if not output.exists():
        part.rename(output)
        return
    work = _work_folder(output)
    old = work / output.name
    try:
        output.rename(old)
        part.rename(output)
    except BaseException as error:
        if not output.exists():
            with suppress(OSError):
                old.rename(output)
        if old.exists():
            raise ConvertError(f"{output}: not replaced ({error}); the checkpoint that was there is {old}") from error
        work.rmdir()
        raise
    shutil.rmtree(work, ignore_errors=True)

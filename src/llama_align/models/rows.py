"""A checkpoint with further tokens: rows of embeddings and head that are means of old ones, all else byte for byte."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import safe_open

from .checking import EMBEDDINGS, LM_HEAD, checked_tensors
from .convert import CARRIED, check_output, same_shards, write_index, write_json, written_beside
from .forms import form_and_kind, full_config, read_config
from .tensor_files import BESIDE, ConvertError, can_copy, index_metadata, read_object, write_shard

CONFIG, GENERATION = "config.json", "generation_config.json"


def mean_rows(rows_VD: torch.Tensor, means: Sequence[Sequence[int]], old: int) -> torch.Tensor:
    """New rows, each the mean of old ones, taken in float32 and rounded once.

    Hewitt 2021, "Initializing new word embeddings for pretrained language models": from the mean of all rows a new
    token takes no more of the next token's probability than the average one. For a token made of old ones, Gee et al.
    2022, "Fast Vocabulary Transfer for Language Model Compression", section 3: the mean of theirs.

    Args:
        rows_VD: [V, D] embeddings or head, of which the first `old` are of tokens.
        means: of each new row the old ids, one counted as often as it is named; none: all of them.

    Returns:
        [len(means), D] in the type of `rows_VD`.
    """
    everything_D = rows_VD[:old].mean(0, dtype=torch.float32)
    rows = [rows_VD[list(ids)].mean(0, dtype=torch.float32) if ids else everything_D for ids in means]
    return torch.stack(rows).to(rows_VD.dtype)


@contextmanager
def written_with_rows(
    source: str | os.PathLike,
    output: str | os.PathLike,
    old: int,
    means: Sequence[Sequence[int]],
    ids: dict[str, dict],
    multiple: int | None = None,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Writes the checkpoint of `source` with other rows from number `old` on, without a tokenizer, form unchanged.

    Everything is checked before anything is written. The block under `with` finishes the folder, which has its name
    `output` afterwards; where it raises, there is none. Rows of `source` from `old` on, of no token, are left out.

    Args:
        source: a Llama or a LlamaHerd with safetensors weights, see `convert.convert`.
        old: how many ids the tokenizer had.
        means: of each new row, see `mean_rows`.
        multiple: what the number of rows is to be divisible by; there are never fewer than in `source`.
        ids: fields of `config.json` and of `generation_config.json` by file, such as `eos_token_id`.

    Raises:
        ConvertError: no such checkpoint, one with fewer rows than `old`, or an output that may not be written.
    """
    source, output = Path(source), Path(output)
    config = read_config(source)
    form, kind = form_and_kind(source / CONFIG, config)
    check_output(source, output, overwrite)
    names, headers = checked_tensors(source, full_config(source / CONFIG, config, form), kind)
    if config["vocab_size"] < old:
        raise ConvertError(
            f"{source / CONFIG}, field 'vocab_size': found {config['vocab_size']}, expected at least {old}, the size "
            "of the tokenizer beside it"
        )
    rows = max(old + len(means), config["vocab_size"])
    means = [*means, *[()] * (rows + -rows % (multiple or 1) - old - len(means))]
    ends = {}
    for name in (name for name in (EMBEDDINGS, LM_HEAD, EMBEDDINGS.removeprefix("model.")) if name in names):
        with safe_open(source / headers[name].file, framework="pt") as opened:
            ends[name] = (old, mean_rows(opened.get_tensor(name), means, old))
    sizes = {name: headers[name].bytes() for name in names}
    for name, (_, rows) in ends.items():
        sizes[name] = sizes[name] // headers[name].shape[0] * (old + len(rows))
    plan = same_shards(names, headers)
    with written_beside(source, output, overwrite) as part:
        for file, held in plan.items():
            if not ends.keys() & set(held) and can_copy(source, file, held, headers, None):
                shutil.copyfile(source / file, part / file)
            else:
                write_shard(part / file, source, held, headers, None, ends)
        write_index(part, plan, sizes, index_metadata(source))
        for path in source.iterdir():
            others = set(CARRIED) - set(BESIDE)  # a tokenizer's own files would say what is no longer so
            if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in others):
                shutil.copyfile(path, part / path.name)
        config.pop("auto_map", None)  # the code beside it stays behind, as in a conversion
        write_json(part / CONFIG, config | {"vocab_size": old + len(means)} | ids[CONFIG])
        found = read_object(source / GENERATION) if (source / GENERATION).is_file() else {}
        write_json(part / GENERATION, found | ids[GENERATION])
        yield part

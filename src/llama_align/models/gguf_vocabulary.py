"""A tokenizer as llama.cpp knows it: Llama 3's byte-level merges, or SentencePiece's scores.

llama.cpp's own converter knows a tokenizer by a hash of the ids it gives a text, so it refuses those trained here. What
counts is how a tokenizer splits and merges, which is read here and refused where llama.cpp has nothing like it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer

from .tensor_files import ConvertError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"  # as SentencePiece writes one
# what llama.cpp calls llama-bpe: the pre-tokenizer of Llama 3, and of recipes/tokenizer.py
LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARK = "\ue000"  # of the chat template, in what was typed (chat/tokenizer.py)
NAMED = {"eot": "<|eot_id|>", "eom": "<|eom_id|>"}


@dataclass(frozen=True)
class Vocabulary:
    """The fields of a GGUF's tokenizer; `scores` are SentencePiece's, `merges` those of byte-level BPE."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    special_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False


def read_vocabulary(source: Path, size: int) -> Vocabulary:
    """The tokenizer of a checkpoint, as transformers loads it.

    Args:
        size: rows of the model's embeddings; ids without a token become unused ones.

    Raises:
        ConvertError: no tokenizer, or one that llama.cpp would follow otherwise.
    """
    path = source / "tokenizer.json"
    if not path.is_file():
        raise ConvertError(
            f"{path}: found no such file, expected the tokenizer, which is part of a GGUF; transformers' "
            "AutoTokenizer.from_pretrained and save_pretrained write it from other forms"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # whatever a broken file runs into
        raise ConvertError(f"{path}: found no tokenizer ({type(error).__name__}: {error}), expected one") from error
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    _expect(path, "model.type", model["type"], "BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        _expect(path, f"model.{name}", model.get(name) or None, None)
    tokens, types = _tokens(path, state, size)
    special_ids = {
        name: token_id
        for name in ("bos", "eos", "unk", "pad")
        if (token_id := getattr(tokenizer, f"{name}_token_id")) is not None
    } | {name: tokens.index(token) for name, token in NAMED.items() if token in tokens}
    add_bos, add_eos = _ends(path, tokenizer)
    template = tokenizer.chat_template
    if not isinstance(template, str | None):
        raise ConvertError(f"{source}: found chat templates {', '.join(template)}, expected one, or none, for gguf")
    shared = special_ids, add_bos, add_eos, template
    if model.get("byte_fallback"):
        scores, prefix = _sentencepiece(path, state, tokens, types)
        return Vocabulary("llama", "default", tokens, types, *shared, scores=scores, add_space_prefix=prefix)
    _check_byte_level(path, state)
    merges = [" ".join(pair) for pair in _merges(model)]
    return Vocabulary("gpt2", "llama-bpe", tokens, types, *shared, merges=merges)


def _expect(path: Path, where: str, found, *expected) -> None:
    if found not in expected:
        names = " or ".join(json.dumps(one, ensure_ascii=False) for one in expected)
        shown = json.dumps(found, ensure_ascii=False)
        raise ConvertError(
            f"{path}, {where}: found {shown[:300]}, expected {names}; llama.cpp has no other for a Llama"
        )


def _tokens(path: Path, state: dict, size: int) -> tuple[list[str], list[int]]:
    """The text and the type of every id. Control tokens are of a type that typed text never becomes."""
    model = state["model"]
    texts = {i: text for text, i in model["vocab"].items()}
    types = dict.fromkeys(texts, NORMAL)
    if model.get("byte_fallback"):
        types |= {model["vocab"][text]: BYTE for text in BYTES if text in model["vocab"]}
    for added in state["added_tokens"]:
        for name in ("single_word", "lstrip", "rstrip"):
            _expect(path, f"added token {added['content']}, {name}", added[name], False)
        texts[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if (unknown := model.get("unk_token")) is not None:
        types[model["vocab"][unknown]] = UNKNOWN
    if max(texts) >= size:
        raise ConvertError(f"{path}: found ids up to {max(texts)}, expected at most {size - 1}, the model's last")
    return [texts.get(i, f"[PAD{i}]") for i in range(size)], [types.get(i, UNUSED) for i in range(size)]


def _ends(path: Path, tokenizer) -> tuple[bool, bool]:
    """Whether a text gets the beginning's and the end's token."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for bos in (False, True):
        for eos in (False, True):
            if whole == [tokenizer.bos_token_id] * bos + bare + [tokenizer.eos_token_id] * eos:
                return bos, eos
    raise ConvertError(
        f"{path}, post_processor: found {whole} for the ids {bare}, expected bos_token and eos_token alone"
    )


def _merges(model: dict) -> list[tuple[str, str]]:
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]


def _check_byte_level(path: Path, state: dict) -> None:
    """Raises ConvertError unless text is split and looked up as Llama 3's tokenizer does."""
    split = {"type": "Split", "pattern": {"Regex": LLAMA_BPE}, "behavior": "Isolated", "invert": False}
    _expect(path, "model.ignore_merges", state["model"].get("ignore_merges"), True)
    _expect(path, "normalizer", _without_marks(state["normalizer"]), None)
    steps = (state["pre_tokenizer"] or {}).get("pretokenizers") or [state["pre_tokenizer"], None]
    _expect(path, "pre_tokenizer", steps[0], split)
    byte_level = {name: (steps[1] or {}).get(name) for name in ("type", "add_prefix_space", "use_regex")}
    _expect(path, "pre_tokenizer", byte_level, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False})
    _expect(path, "pre_tokenizer, steps", len(steps), 2)


def _without_marks(normalizer: dict | None) -> dict | None:
    """A normaliser without the step that takes a chat template's marks out of a text, which then stay in it."""
    kept = [step for step in _steps(normalizer) if not _unmarks(step)]
    if len(kept) < 2:
        return kept[0] if kept else None
    return {"type": "Sequence", "normalizers": kept}


def _steps(normalizer: dict | None) -> list[dict]:
    if normalizer is None:
        return []
    if normalizer["type"] != "Sequence":
        return [normalizer]
    return [step for inner in normalizer["normalizers"] for step in _steps(inner)]


def _unmarks(step: dict) -> bool:
    """Whether a step takes out marks between other characters and nothing else."""
    pattern = step.get("pattern", {}).get("Regex", "") if step["type"] == "Replace" and not step["content"] else ""
    return {MARK} == set(re.sub(r"\(\?<?=.*?\)", "", pattern).split("|"))


def _sentencepiece(path: Path, state: dict, tokens: list[str], types: list[int]) -> tuple[list[float], bool]:
    """A score for every token, and whether a text begins with a space of its own.

    SentencePiece joins any two neighbours that make a token, of the best score first; merges say which two, and when.
    Both are the same where every way to make a token is a merge and the merges of a token follow each other.
    """
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefixed = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}
    normalizer = _without_marks(state["normalizer"])
    _expect(path, "normalizer", normalizer, prefixed, spaces)
    _expect(path, "pre_tokenizer", state["pre_tokenizer"], None)
    if missing := [text for text in BYTES if text not in state["model"]["vocab"]]:
        raise ConvertError(f"{path}: found no token {missing[0]}, expected one for each byte")
    merges = _merges(state["model"])
    ranks: dict[str, int] = {}
    last = None
    for rank, (left, right) in enumerate(merges):
        if left + right != last and left + right in ranks:
            raise ConvertError(
                f"{path}, model.merges: found {left + right!r} made at two ranks, expected one for a score"
            )
        last = left + right
        ranks.setdefault(last, rank)
    normal = {text for text, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    if unlisted := next(iter(_joins(normal) - set(merges)), None):
        raise ConvertError(
            f"{path}, model.merges: found none of {unlisted}, expected it; llama.cpp joins what makes a token"
        )
    return [float(-ranks.get(text, len(merges))) for text in tokens], normalizer == prefixed


def _joins(tokens: set[str]) -> set[tuple[str, str]]:
    """Every way to make a token of two tokens or characters."""

    def halves(text: str) -> Iterable[tuple[str, str]]:
        return ((text[:i], text[i:]) for i in range(1, len(text)))

    def whole(part: str) -> bool:
        return len(part) == 1 or part in tokens

    return {(left, right) for text in tokens for left, right in halves(text) if whole(left) and whole(right)}

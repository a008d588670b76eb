"""Tokenizers of every family that a dialect is for: small ones made here, published ones where they lie on the machine.

Published ones are read from the package `llama-models` (Llama 3's vocabulary) and from folders `llama-2` and `llama-3`
with `tokenizer.json` in the folder that LLAMA_ALIGN_TOKENIZERS names.
"""

import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llama_align.chat import special_tokens, train_tokenizer
from llama_align.chat.tokenizer import CHAT_TEMPLATE, LLAMA3_SPLIT

TEMPLATES = Path(__file__).parent / "templates"  # as published
FOLDER = os.environ.get("LLAMA_ALIGN_TOKENIZERS")
# family of tokens, published chat template, the dialect that they must be given, and whether its pad is taken over
SMALL = {
    "llama-3.1": ("llama3", None, "Llama 3.1"),
    "llama-3.0": ("llama3.0", "Meta-Llama-3-8B-Instruct", "Llama 3.0"),
    "llama-2": ("sentencepiece", "Llama-2-7b-chat-hf", "Llama 2"),
    "llama-2-first": ("metaspace", "Llama-2-7b-chat-hf", "Llama 2"),
    "llama-2-base": ("sentencepiece", None, "Llama 2"),
    "smollm2": ("gpt2", "SmolLM2-135M-Instruct", "ChatML"),
    "chatml": ("gpt2", "chatml", "ChatML"),
    "chatml-sentencepiece": ("metaspace", "chatml", "ChatML"),
    "tinyllama": ("sentencepiece", "TinyLlama-1.1B-Chat", "Zephyr"),
    "tinyllama-first": ("metaspace", "TinyLlama-1.1B-Chat", "Zephyr"),
}
REAL = {
    "real-llama-2": ("llama-2", "Llama-2-7b-chat-hf", "Llama 2"),
    "real-tinyllama": ("llama-2", "TinyLlama-1.1B-Chat", "Zephyr"),
    "real-llama-3.0": ("llama-3", "Meta-Llama-3-8B-Instruct", "Llama 3.0"),
    "real-llama-3.1": ("llama_models", None, "Llama 3.1"),
}
FAMILIES = SMALL | REAL
JOINED = ("bytes", "TinyLlama-1.1B-Chat", "Zephyr")  # a vocabulary that joins headers with the white space behind them
NAMES = {
    "gpt2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<empty_output>"],
    "bytes": ["<unk>", "<s>", "</s>"],
    "sentencepiece": ["<unk>", "<s>", "</s>"],
    "metaspace": ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"],
}


def make(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of a family, with the published chat template; skips the test where it is not on the machine."""
    kind, template, _ = JOINED if name == "joined" else FAMILIES[name]
    tokenizer = _BUILDERS[kind](list(texts))
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text() if template else None
    if name in ("llama-3.1", "real-llama-3.1"):
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _fast(tokenizer: Tokenizer, names: list[str], **special: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _llama3(texts, renamed: bool = False):
    tokenizer = train_tokenizer(texts, 420, style="llama3")
    if not renamed:
        return tokenizer
    names = iter(range(16))
    kept = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}
    renamed = {
        name: name if name in kept else f"<|reserved_special_token_{next(names)}|>" for name in special_tokens(16)
    }
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = None
    for token in state["added_tokens"]:
        token["content"] = renamed[token["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def byte_level(texts, kind: str):
    tokenizer = Tokenizer(models.BPE())
    if kind == "gpt2":  # as SmolLM2: GPT-2's pattern, digits apart
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps = [pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    spaces = ["user\n\n\nassistant\n\n system\n  \n", "a\n\n\nb", "a \n b", "|>\n\n", "|>\n"] * 50
    tokenizer.train_from_iterator([*texts, *spaces], trainers.BpeTrainer(vocab_size=460, initial_alphabet=alphabet))
    return tokenizer


def _gpt2(texts):
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    return _fast(byte_level(texts, "gpt2"), NAMES["gpt2"], pad_token="<|im_end|>", **special)


def _bytes(texts):
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _fast(byte_level(texts, "bytes"), NAMES["bytes"], **special)


def _sentencepiece(texts, kind: str = "sentencepiece"):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(prepend)
    words = Regex("▁*[^▁\n]*|\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    known = [*NAMES["sentencepiece"], *(f"<0x{byte:02X}>" for byte in range(256))]
    some = ["[INST] [/INST] <<SYS>> <</SYS>> <|user|> <|assistant|> <|system|> user assistant system"] * 40
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=known, limit_alphabet=80)
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in [*texts, *some]], trainer)
    tokenizer = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))
    tokenizer.pre_tokenizer = None if kind == "sentencepiece" else pre_tokenizers.Metaspace("▁", "first", split=False)
    if kind == "metaspace":
        tokenizer.normalizer = normalizers.Sequence([])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = NAMES[kind][: None if kind == "metaspace" else 3]
    return _fast(tokenizer, names, **special)


def _in_folder(name: str):
    folder = Path(FOLDER or "") / name
    if not FOLDER or not (folder / "tokenizer.json").is_file():
        pytest.skip(f"needs {name}/tokenizer.json in the folder that LLAMA_ALIGN_TOKENIZERS names")
    return AutoTokenizer.from_pretrained(folder)


def _llama_models():
    found = importlib.util.find_spec("llama_models")
    if found is None or importlib.util.find_spec("tiktoken") is None:
        pytest.skip("needs the packages llama-models (0.3.0) and tiktoken")
    from transformers.convert_slow_tokenizer import TikTokenConverter

    file = Path(found.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    converted = TikTokenConverter(vocab_file=str(file), pattern=LLAMA3_SPLIT, extra_special_tokens=special_tokens(256))
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return PreTrainedTokenizerFast(tokenizer_object=converted.converted(), **special)


_BUILDERS = {
    "llama3": _llama3,
    "llama3.0": lambda texts: _llama3(texts, renamed=True),
    "gpt2": _gpt2,
    "bytes": _bytes,
    "sentencepiece": _sentencepiece,
    "metaspace": lambda texts: _sentencepiece(texts, "metaspace"),
    "llama-2": lambda _: _in_folder("llama-2"),
    "llama-3": lambda _: _in_folder("llama-3"),
    "llama_models": lambda _: _llama_models(),
}

"""Training a tokenizer in the style of Llama 3 (byte-level BPE) or Llama 2 (byte fallback, single digits)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .contract import BOS, EOM, EOS, EOT, PAD, START_HEADER, ContractError, encode_text
from .tools import PYTHON_TAG

# Position of a control token among the special ids, which start where the ordinary vocabulary ends (Llama 3.1: 128000)
SPECIAL_POSITIONS = {
    BOS: 0,
    EOS: 1,
    PAD: 4,
    START_HEADER: 6,
    "<|end_header_id|>": 7,
    EOM: 8,
    EOT: 9,
    PYTHON_TAG: 10,
}
# Llama 3's pre-tokenizer: words with their leading space, up to three digits together, runs of punctuation, newlines
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Between '<' and '|' of text the template writes this mark, so that no added token matches; the normaliser drops it
MARK = "\ue000"
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()


def special_tokens(count: int = 16) -> list[str]:
    """The control tokens at Llama 3's positions, the rest reserved. Llama 3 itself has 256.

    Raises:
        ValueError: fewer than the 11 positions in use.
    """
    if count < 11:
        raise ValueError(f"num_special_tokens: found {count}, expected at least 11")
    names = {position: name for name, position in SPECIAL_POSITIONS.items()}
    reserved = iter(range(count))
    return [names.get(i) or f"<|reserved_special_token_{next(reserved)}|>" for i in range(count)]


def train_tokenizer(
    texts: Iterable[str] | Iterator[str],
    vocab_size: int,
    *,
    style: str = "llama3",
    num_special_tokens: int = 16,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Trains byte-level BPE and wraps it with the control tokens and the chat template.

    Args:
        texts: training text.
        vocab_size: ids in total, control tokens included.
        style: `"llama3"` (byte-level, up to three digits a token) or `"llama2"` (unknown characters as bytes, every
            digit a token of its own).

    Raises:
        ValueError: an unknown style, or a vocabulary too small for 256 bytes and the control tokens.
        ContractError: the text gave no token for the two newlines after a header.
    """
    ordinary = vocab_size - num_special_tokens
    if ordinary < 260:
        raise ValueError(f"vocab_size: found {vocab_size}, expected at least {260 + num_special_tokens}")
    if style not in _BUILDERS:
        raise ValueError(f"style: found {style!r}, expected one of {', '.join(_BUILDERS)}")
    tokenizer, trainer = _BUILDERS[style](ordinary, show_progress)
    # every header ends in two newlines and names a role: both must come out as few tokens whatever the corpus is
    tokenizer.train_from_iterator(_with_format_text(texts), trainer)
    return _wrap(_without_added_tokens(tokenizer), special_tokens(num_special_tokens))


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer registers the byte tokens as special too: `<0x41>` in text would match, decoding would skip them."""
    state = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(state | {"added_tokens": []}))


def _with_format_text(texts: Iterable[str]) -> Iterator[str]:
    yield from ["system\n\nuser\n\nassistant\n\nipython\n\n"] * 200
    yield from texts


def _llama3(size: int, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=show_progress)


def _llama2(size: int, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}|\n\n|\s| ?[^\s\p{L}\p{N}]+"), "isolated")
    # spaces stay spaces, where SentencePiece writes "▁" and so loses that character
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fallback = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=fallback, limit_alphabet=(size - 257) // 2, show_progress=show_progress
    )
    return tokenizer, trainer


_BUILDERS = {"llama3": _llama3, "llama2": _llama2}


def _wrap(tokenizer: Tokenizer, specials: list[str]) -> PreTrainedTokenizerFast:
    # only the mark is taken out, so that offsets (the template's assistant mask needs them) stay those of the text
    tokenizer.normalizer = normalizers.Replace(Regex(rf"(?<=<){MARK}(?=\|)"), "")
    tokenizer.add_special_tokens(specials)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = CHAT_TEMPLATE
    if len(encode_text(fast, "\n\n")) != 1:
        raise ContractError("found no single token for two newlines, expected one; vocab_size is too small")
    return fast

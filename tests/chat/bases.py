"""Base models without control tokens, small: their tokenizers as published ones are made, their weights at random."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_align.chat.tokenizer import LLAMA3_SPLIT, SPECIAL_POSITIONS

from ..conftest import made_up_text

ABSENT = ("<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>")
TEXTS = [made_up_text(40, seed) + "\nÄpfel, naïve\n\n" for seed in range(40)]


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space before every text, unknown characters as bytes, no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    # no newline in the alphabet: SentencePiece has it as a byte
    texts = [text.replace("\n", " ") for text in TEXTS]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=fixed, show_progress=False))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are no special tokens
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(gpt2: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level, one token behind the vocabulary begins and ends a text.

    gpt2: with the pre-tokenizer of GPT-2 and SmolLM2, by which a newline joins the word behind it.
    """
    tokenizer = Tokenizer(models.BPE())
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    tokenizer.pre_tokenizer = by_bytes if gpt2 else pre_tokenizers.Sequence([split, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token=None
    )


def llama30(llama3: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As Llama 3.0's: some of the control tokens, among them one that is not said to be special."""
    names = [name for name in SPECIAL_POSITIONS if name not in ABSENT]
    state = json.loads(llama3.backend_tokenizer.to_str())
    state |= {"added_tokens": [], "normalizer": None, "post_processor": None}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens(names[:-1])
    tokenizer.add_tokens([AddedToken(names[-1], special=False, normalized=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=names[0], eos_token=names[1])


def write(folder: Path, tokenizer: PreTrainedTokenizerFast, shard: str = "5GB", dtype=torch.float32, **fields) -> Path:
    """A checkpoint with this tokenizer."""
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 256}
        | {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        | fields
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("as it was\n")
    (folder / "tokenizer.model").write_text("of the old vocabulary")
    return folder

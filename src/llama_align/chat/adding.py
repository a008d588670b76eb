"""A base model given Llama 3's control tokens, and its vocabulary pieces for another language, as a new checkpoint."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..models.forms import read_config
from ..models.rows import CONFIG, GENERATION, written_with_rows
from ..runtime.files import write_json
from .contract import ControlTokens, encode_text
from .dialects import BOS, END_HEADER, EOM, EOS, EOT, PAD, ContractError
from .pieces import Piece, learn_pieces, with_pieces
from .tokenizer import CHAT_TEMPLATE, MARK, SPECIAL_POSITIONS, special_tokens

REPORT = "vocabulary.json"  # what was added, beside the weights
BREAKS = "{%- if '|>' in content -%}"  # where the template breaks up what a message says


def missing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The control tokens that a tokenizer lacks, in Llama 3's order: where it lacks some that are in use, else none.

    One without any gets all 16, reserved ones among them, so that each has Llama 3's place behind the first.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in special_tokens() if name not in vocabulary]
    return missing if set(missing) & set(SPECIAL_POSITIONS) else []


def add_tokens(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    control_tokens: bool = True,
    texts: Iterable[str] = (),
    pieces: int = 0,
    measured: dict[str, Sequence[str]] | None = None,
    pad_to_multiple_of: int | None = None,
    overwrite: bool = False,
) -> dict:
    """Writes the checkpoint of `source` to `output` with further tokens; those it has keep ids and weights.

    The rows of embeddings and head of a new token are means of old ones (`models.rows.mean_rows`): of a piece those of
    the old pieces it is made of, of `<|begin_of_text|>` and `<|end_of_text|>`, which mean what the base's own begin
    and end of text do, those of these two, of any other control token and of padding the mean of all.

    Args:
        source: folder of a Llama or a LlamaHerd, with its tokenizer.
        control_tokens: whether those of Llama 3 that are missing are added, with its chat template.
        texts: what `pieces` further pieces are learned from (`pieces.learn_pieces`).
        measured: texts by name, of which characters per token are counted before and after.
        pad_to_multiple_of: for the number of rows.
        overwrite: whether a checkpoint at `output` is replaced.

    Returns:
        What is written into `vocabulary.json`, too: numbers of tokens, and characters per token before and after.

    Raises:
        ContractError: nothing to add, a tokenizer that cannot be added to, or too little text.
        ConvertError: no checkpoint of a Llama, or an output that may not be written.
    """
    source, output = Path(source), Path(output)
    read_config(source)
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise ContractError(f"pad_to_multiple_of: found {pad_to_multiple_of}, expected at least 1")
    before = _load(source)
    names = missing_tokens(before) if control_tokens else []
    if not names and not pieces:
        what = "has all of Llama 3's control tokens" if control_tokens else "was to get neither pieces nor tokens"
        raise ContractError(f"tokenizer {str(source)!r}: {what}, expected something to add")
    learned = learn_pieces(before.backend_tokenizer, texts, pieces, special_tokens()) if pieces else []
    after = extended(before, names, learned)
    own = {BOS: before.bos_token_id, EOS: before.eos_token_id}
    means = [piece.ids for piece in learned] + [[own[name]] if own.get(name) is not None else [] for name in names]
    report = {
        "source": source.resolve().name,
        "tokens": {"before": len(before), "after": len(after)},
        "control_tokens": names,
        "pieces": len(learned),
        "characters_per_token": {
            name: {"before": characters_per_token(before, held), "after": characters_per_token(after, held)}
            for name, held in (measured or {}).items()
        },
    }
    ids = _ids(before, after, names)
    with written_with_rows(source, output, len(before), means, ids, pad_to_multiple_of, overwrite) as part:
        after.save_pretrained(part)
        write_json(part / REPORT, report)
    return report


def extended(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[str], pieces: Sequence[Piece] = ()
) -> PreTrainedTokenizerFast:
    """The tokenizer with pieces and then control tokens behind its own, and with these Llama 3's chat template.

    Ordinary text is encoded as before, but for what the pieces stand for. Typed text becomes no control token, neither
    one of these nor one of the tokenizer's own.

    Raises:
        ContractError: typed text would all the same; or newlines join what follows them, as with GPT-2's tokenizer, so
            that an answer's header would be other tokens in training than where the answer is sampled.
    """
    backend = with_pieces(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), pieces)
    backend.no_truncation()
    backend.no_padding()
    special = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    template = tokenizer.chat_template
    if names:
        backend = _as_special(backend, names)
        own = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
        broken = [text for text in own if len(text) > 1 and not (text.startswith("<|") and text.endswith("|>"))]
        mark = normalizers.Replace(Regex(_between([*broken, "<|"])), "")
        backend.normalizer = normalizers.Sequence([mark, *([backend.normalizer] if backend.normalizer else [])])
        if BOS in names:
            begin = [(BOS, backend.token_to_id(BOS))]
            backend.post_processor = processors.TemplateProcessing(f"{BOS} $A", f"{BOS} $A {BOS} $B", begin)
        special |= {"bos_token": BOS, "eos_token": EOT, "pad_token": PAD}
        template = _template(broken)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = template
    for name in SPECIAL_POSITIONS if names else ():
        # alone, as a tokenizer that looks up whole words before merges would find it
        if backend.token_to_id(name) in encode_text(fast, name):
            raise ContractError(f"tokenizer: found that {name} typed is encoded as that token, expected plain text")
    if names:
        ControlTokens.of(fast)
        alone, followed = (fast(f"{END_HEADER}\n\n{text}", add_special_tokens=False)["input_ids"] for text in ("", "a"))
        if followed[: len(alone)] != alone:
            here, there = (" ".join(fast.convert_ids_to_tokens(ids)) for ids in (alone, followed))
            raise ContractError(
                f"tokenizer: found two newlines as {here} where an answer is asked for and as {there} before an 'a', "
                "expected the same header before any text"
            )
    return fast


def characters_per_token(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Characters of texts over tokens without begin and end, to three places."""
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return round(sum(map(len, texts)) / max(1, sum(map(len, ids))), 3)


def _load(source: Path) -> PreTrainedTokenizerBase:
    if not any(source.glob("tokenizer*")):
        raise ContractError(f"{source}: found no tokenizer files, expected tokenizer.json or tokenizer.model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # of transformers or of tokenizers, which raises no other class
        raise ContractError(f"{source}: found no tokenizer that loads ({error}), expected one") from error
    if not tokenizer.is_fast:
        raise ContractError(f"{source}: found a tokenizer in Python, expected one with tokenizer.json")
    highest = max(tokenizer.get_vocab().values())
    if highest != len(tokenizer) - 1:
        raise ContractError(
            f"tokenizer {str(source)!r}: found {len(tokenizer)} tokens with ids up to {highest}, expected no gaps"
        )
    return tokenizer


def _as_special(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """With these tokens; special ones match text as it was given, never what the normaliser made of it."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] |= token["content"] in SPECIAL_POSITIONS
        token["normalized"] &= not token["special"]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


def _between(texts: Iterable[str]) -> str:
    """A pattern of the mark behind the first character of a text, before the rest of it."""
    return "|".join(f"(?<={re.escape(text[0])}){MARK}(?={re.escape(text[1:])})" for text in dict.fromkeys(texts))


def _template(broken: Sequence[str]) -> str:
    """Llama 3's template, which breaks up these texts, too, where a message has them."""
    pairs = [[json.dumps(part, ensure_ascii=False) for part in (text, text[0] + MARK + text[1:])] for text in broken]
    filters = "".join(f" | replace({text}, {apart})" for text, apart in pairs)
    if not broken:
        return CHAT_TEMPLATE
    place = CHAT_TEMPLATE.index(BREAKS)
    return f"{CHAT_TEMPLATE[:place]}{{%- set content = content{filters} -%}}\n{CHAT_TEMPLATE[place:]}"


def _ids(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerFast, names: Sequence[str]) -> dict[str, dict]:
    """The ids in `config.json` and `generation_config.json`: an answer ends with its turn, its message or the text.

    None where no control token was added, as both are right.
    """
    if not names:
        return {CONFIG: {}, GENERATION: {}}
    first = {"bos_token_id": after.bos_token_id, "pad_token_id": after.pad_token_id}
    ends = [after.convert_tokens_to_ids(name) for name in (EOS, EOM, EOT)]
    own = [before.eos_token_id] if before.eos_token_id not in (None, *ends) else []
    return {
        CONFIG: first | {"eos_token_id": after.eos_token_id},
        GENERATION: first | {"eos_token_id": own + ends},
    }

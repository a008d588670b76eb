"""Infilling in the token contract: a document whose middle is moved to its end (Code Llama, section 2.3).

    prefix first    <PRE> prefix <SUF> suffix <MID> middle <EOT>
    suffix first    <PRE> <SUF> suffix <MID> prefix middle <EOT>     (Bavarian et al., 2022, section 3 and appendix D)

as Code Llama's `infilling_prompt_tokens` writes them. Suffix and middle stand without the space that SentencePiece puts
before a text. With the suffix first, prefix and middle are encoded as one text: there no token is cut where they meet.
A middle without a prefix is where the document begins, so that both forms of it are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from .contract import ANCHOR, _check_typed, encode_text
from .dialects import BOS, ContractError, known

# prefix, suffix, middle and end by name: Code Llama's own pieces; else Llama 3's reserved tokens at these places behind
# <|begin_of_text|>, which neither of its vocabularies uses
NAMES = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
PLACES = (11, 12, 13, 14)
RESERVED = "<|reserved_special_token_"


class Split(NamedTuple):
    """A document in three parts, and whether its suffix comes first."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool = False


@dataclass(frozen=True)
class InfillingTokens:
    """The control tokens of infilling.

    Args:
        end: ends the middle, beside the end of the text. spaced: the tokenizer puts a space before a text.
    """

    prefix: int
    suffix: int
    middle: int
    end: int
    spaced: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "InfillingTokens":
        """Those of a tokenizer.

        Raises:
            ContractError: it has none, or text that somebody typed becomes one.
        """
        ids = [known(tokenizer, name) for name in NAMES]
        begin = known(tokenizer, BOS)
        if None in ids and begin is not None:
            names = tokenizer.convert_ids_to_tokens([begin + place for place in PLACES])
            ids = [begin + place for place in PLACES if all(name and name.startswith(RESERVED) for name in names)]
        if len(ids) < len(NAMES) or None in ids:
            raise ContractError(
                f"tokenizer {tokenizer.name_or_path!r}: found no control tokens for infilling, expected Code Llama's "
                f"{', '.join(NAMES)} or Llama 3's reserved ones at {', '.join(map(str, PLACES))} behind {BOS}, which "
                "llama-align add-tokens adds"
            )
        _check_typed(tokenizer, dict(zip(tokenizer.convert_ids_to_tokens(ids), ids, strict=True)))
        alone, behind = (encode_text(tokenizer, text) for text in ("a", f"{ANCHOR}a"))
        return cls(*ids, spaced=alone[-1] != behind[-1])


def encode_infilled(
    tokenizer: PreTrainedTokenizerBase, splits: Sequence[Split], tokens: InfillingTokens
) -> list[list[int]]:
    """Ids of documents in parts, without begin and end of text; nothing in them becomes a control token."""
    texts = []
    for split in splits:
        if split.suffix_first:
            texts += [(split.suffix, True), (split.prefix + split.middle, False)]
        else:
            texts += [(split.prefix, False), (split.suffix, True), (split.middle, split.prefix != "")]
    encoded = iter(_encoded(tokenizer, texts, tokens))
    rows = []
    for split in splits:
        first, second = next(encoded), next(encoded)
        if split.suffix_first:
            rows.append([tokens.prefix, tokens.suffix, *first, tokens.middle, *second, tokens.end])
        else:
            parts = [tokens.prefix, *first, tokens.suffix, *second, tokens.middle]
            rows.append([*parts, *next(encoded), tokens.end])
    return rows


def infilling_prompt(
    tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, tokens: InfillingTokens, suffix_first: bool = False
) -> list[int]:
    """Ids behind which the middle between prefix and suffix is sampled, without begin of text."""
    (whole,) = encode_infilled(tokenizer, [Split(prefix, "", suffix, suffix_first)], tokens)
    return whole[:-1]


def document_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], tokens: InfillingTokens) -> str:
    """The document that infilled ids stand for; begin and end of text around them are passed over.

    Raises:
        ContractError: ids that no infilled document has.
    """
    try:
        first, second, third, last = (
            ids.index(token) for token in (tokens.prefix, tokens.suffix, tokens.middle, tokens.end)
        )
    except ValueError as error:
        raise ContractError(f"infilled document: {error}, expected all four control tokens of infilling") from error
    if not first < second < third < last:
        raise ContractError(f"infilled document: found its control tokens at {first}, {second}, {third}, {last}")
    ids = list(ids)
    prefix, suffix, middle = ids[first + 1 : second], ids[second + 1 : third], ids[third + 1 : last]
    start = _decoded(tokenizer, prefix, False) + _decoded(tokenizer, middle, tokens.spaced and prefix != [])
    return start + _decoded(tokenizer, suffix, tokens.spaced)


def decode_middle(tokenizer: PreTrainedTokenizerBase, prefix: str, ids: Sequence[int], tokens: InfillingTokens) -> str:
    """The text of a middle that was sampled behind `infilling_prompt`, with the token of its end or without."""
    ids = [token for token in ids if token != tokens.end]
    return _decoded(tokenizer, ids, tokens.spaced and prefix != "")


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]], tokens: InfillingTokens
) -> list[list[int]]:
    """Ids of texts; those marked stand without the tokenizer's own space before them."""
    if not texts:
        return []
    skip = len(encode_text(tokenizer, ANCHOR))
    bare = [tokens.spaced and within for _, within in texts]
    told = [ANCHOR + text if cut else text for (text, _), cut in zip(texts, bare, strict=True)]
    found = tokenizer(told, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [ids[skip:] if cut else ids for ids, cut in zip(found, bare, strict=True)]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], bare: bool) -> str:
    lead = encode_text(tokenizer, ANCHOR) if bare else []
    text = tokenizer.decode([*lead, *ids], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text[len(ANCHOR) :] if bare else text

"""The token contract: a dialog becomes ids and a role per token, here and nowhere else.

Control tokens are placed as ids. What stands between two of them is encoded as one plain text, as a chat template's
text would be, so that `<|eot_id|>` typed by a user stays the text it is.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from .dialects import ContractError, Dialect, dialect_of, known, template_of, templated
from .roles import LEARNED, Opening, TokenRole

ANCHOR = "\n"  # a text that no token of a header's or content's beginning joins
RARE = "\U0010fffd\x00"  # unknown to most vocabularies

Piece = tuple[int | str, TokenRole]  # a control token's id, or text


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of one tokenizer, and the dialect in which they write a dialog.

    Args:
        bos, eos: begin and end of a document. pad: fills rows, and stands for nothing else.
        eot, eom: end of turn, and of a message that a tool answers. python_tag: opens a tool call. None: there is none.
        ids: of all control tokens, by name.
        begin: pieces before the first message. headers: pieces that open a message, by role.
        system: the system message of dialogs without one, where the tokenizer's chat template has one.
        spaced: a text behind a control token is encoded as if it stood alone, with the space that SentencePiece puts
            before a text.
        openings: ids by which `roles_of` knows a message. answer_header: those that a sampler goes on from.
    """

    dialect: Dialect
    bos: int
    eos: int
    pad: int
    eot: int
    eom: int | None
    python_tag: int | None
    ids: Mapping[str, int]
    begin: tuple[Piece, ...]
    headers: Mapping[str, tuple[Piece, ...]]
    system: str | None = None
    spaced: bool = True
    openings: tuple[Opening, ...] = ()
    answer_header: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ControlTokens":
        """The dialect by the tokenizer's tokens and chat template, and the ids.

        Raises:
            ContractError: no dialect fits, or the tokenizer is no fast one; text becomes a control token; no token is
                left to pad with; or tokens are joined so that roles could not be read back from ids.
        """
        if not tokenizer.is_fast:
            raise ContractError(
                f"tokenizer {tokenizer.name_or_path!r}: found one in Python, expected a fast one (tokenizer.json), "
                "which says where in a text each token begins"
            )
        dialect = dialect_of(tokenizer)
        bos = next(name for name in dialect.bos if known(tokenizer, name) is not None)
        eos = next(name for name in dialect.eos if known(tokenizer, name) is not None)
        special = (*dialect.control, bos, eos, dialect.eot, dialect.eom, dialect.python_tag)
        ids = {name: known(tokenizer, name) for name in special if name}
        _check_typed(tokenizer, ids)
        tokens = cls(
            dialect=dialect,
            bos=ids[bos],
            eos=ids[eos],
            pad=_pad(tokenizer, dialect, ids),
            eot=ids[dialect.eot],
            eom=ids.get(dialect.eom),
            python_tag=ids.get(dialect.python_tag),
            ids=ids,
            begin=_pieces(dialect.begin, ids, TokenRole.TEXT),
            headers={role: _pieces(text, ids, TokenRole.HEADER) for role, text in dialect.headers.items()},
            spaced=_spaced(tokenizer, dialect, ids),
        )
        return replace(
            tokens,
            system=_own_system(tokenizer, dialect),
            openings=_openings(tokenizer, tokens),
            answer_header=tuple(encode_pieces(tokenizer, tokens.headers["assistant"], tokens).ids),
        )

    @property
    def terminators(self) -> tuple[int, ...]:
        """Ids at which an answer ends: end of turn, end of message, end of text."""
        return tuple(dict.fromkeys(token for token in (self.eot, self.eom, self.eos) if token is not None))


@dataclass(frozen=True)
class Rendered:
    """A dialog as ids and, in parallel, a `TokenRole` for each."""

    ids: list[int]
    roles: list[int]

    @property
    def labels(self) -> list[int]:
        """The ids where an assistant speaks, -100 elsewhere."""
        return [i if role in LEARNED else -100 for i, role in zip(self.ids, self.roles, strict=True)]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of plain text; nothing in it becomes a control token.

    Raises:
        ContractError: text that is not valid Unicode.
    """
    try:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    except TypeError as error:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        raise ContractError(f"text: found {text[:60]!r}, expected valid Unicode") from error


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], tokens: ControlTokens) -> Rendered:
    """Pieces as ids and roles. A token that several pieces share has the role of the one it begins in.

    Texts behind one another are encoded as one, unless an empty piece parts them.
    """
    runs = [
        (text, list(run)) for text, run in groupby(pieces, lambda piece: isinstance(piece[0], str) and piece[0] != "")
    ]
    runs = [(text, [piece for piece in run if piece[0] != ""]) for text, run in runs]
    texts = ["".join(value for value, _ in run) for is_text, run in runs if is_text]
    behind = [number > 0 for number, (is_text, _) in enumerate(runs) if is_text]
    encoded = iter(_encoded(tokenizer, texts, behind, tokens.spaced))
    ids, roles = [], []
    for is_text, run in runs:
        if not is_text:
            ids += [value for value, _ in run]
            roles += [int(role) for _, role in run]
            continue
        found, starts = next(encoded)
        ids += found
        first, end = 0, 0
        for number, (text, role) in enumerate(run, start=1):
            end += len(text)
            last = len(found) if number == len(run) else bisect_left(starts, end, first)
            roles += [int(role)] * (last - first)
            first = last
    return Rendered(ids, roles)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], behind: list[bool], spaced: bool
) -> list[tuple[list[int], list[int]]]:
    """Ids of texts with the position at which each begins; `behind`: which stand behind a control token."""
    if not texts:
        return []
    anchors = [0 if spaced or not follows else len(ANCHOR) for follows in behind]
    found = tokenizer(
        [ANCHOR[:anchor] + text for text, anchor in zip(texts, anchors, strict=True)],
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    encoded = []
    for ids, offsets, anchor in zip(found["input_ids"], found["offset_mapping"], anchors, strict=True):
        # a tokenizer may leave white space out of its tokens' places: a token begins where the last one ended at most
        ends = [0, *(end for _, end in offsets)]
        starts = [min(start, end) - anchor for (start, _), end in zip(offsets, ends, strict=False)]
        skip = bisect_left(starts, 0)
        encoded.append((ids[skip:], starts[skip:]))
    return encoded


def _check_typed(tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> None:
    for name, token in ids.items():
        if token in encode_text(tokenizer, f"a {name}{name} a"):
            raise ContractError(
                f"tokenizer {tokenizer.name_or_path!r}, token {name!r}: found it in the ids of a text that somebody "
                "typed, expected a special token (in tokenizer.json: added_tokens, special: true)"
            )


def _pad(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, ids: Mapping[str, int]) -> int:
    """The first token of `pads` that has no other use and that no text becomes."""
    own = tokenizer.convert_ids_to_tokens(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else None
    typed = set(encode_text(tokenizer, f"{RARE} {' '.join(dialect.pads)} {own}"))
    for name in (*dialect.pads, *([own] if own else [])):
        found = known(tokenizer, name)
        taken = found in ids.values() and name not in dialect.pads
        if found is not None and found not in typed and not taken:
            return found
    raise ContractError(
        f"tokenizer {tokenizer.name_or_path!r}, {dialect.name}: found no token to pad with, expected one of "
        f"{', '.join(dialect.pads)} that text never becomes and that ends nothing; llama-align add-tokens adds one"
    )


def _pieces(form: str, ids: Mapping[str, int], role: TokenRole) -> tuple[Piece, ...]:
    """A form of the table as control tokens and texts."""
    pieces, rest = [], form
    while rest:
        at, name = min(((rest.find(name), name) for name in ids if name in rest), default=(len(rest), ""))
        pieces += [(rest[:at], role)] if at else []
        pieces += [(ids[name], role)] if name else []
        rest = rest[at + len(name) :]
    return tuple(pieces)


def _spaced(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, ids: Mapping[str, int]) -> bool:
    """Whether the tokenizer itself puts a space before a text behind a control token."""
    name = dialect.control[0]
    whole = tokenizer(f"{name}a b", add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return whole == [ids[name], *encode_text(tokenizer, "a b")]


def _own_system(tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> str | None:
    """The system message that the tokenizer's chat template itself puts before a dialog without one."""
    template = template_of(tokenizer)
    if not template or "system" not in dialect.headers or template == dialect.chat_template:
        return None

    def message(role: str, content: str) -> str:
        return f"{dialect.headers[role]}{content}{dialect.eot}{dialect.after}"

    def written(*dialog: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in dialog]
        return templated(tokenizer, messages, tokenize=False) or ""

    opening = dialect.begin + dialect.headers["system"]
    closing = dialect.eot + dialect.after + message("user", "a")
    found = written(("user", "a"))
    told = dialect.begin + message("system", "b") + message("user", "a")
    if not (found.startswith(opening) and found.endswith(closing) and written(("system", "b"), ("user", "a")) == told):
        return None
    return found[len(opening) : -len(closing)]


def _openings(tokenizer: PreTrainedTokenizerBase, tokens: ControlTokens) -> tuple[Opening, ...]:
    """The ids of every header, where it stands first and behind another message."""
    dialect, openings = tokens.dialect, []
    behind = [(tokens.eot, TokenRole.TEXT)] + [(dialect.after, TokenRole.TEXT)] * bool(dialect.after)
    if dialect.after:
        openings.append(Opening(tuple(encode_pieces(tokenizer, behind, tokens).ids), 1, None))
    for role, header in tokens.headers.items():
        content = TokenRole.ANSWER if role == "assistant" else TokenRole.PROMPT
        if isinstance(header[0][0], int):
            openings.append(Opening(_header_ids(tokenizer, tokens, [], header), 0, content))
        elif dialect.pairs:  # what the user said ends here, be it nothing
            for asked in ("a", ""):
                lead = [*tokens.headers["user"], ("".join(dialect.padding["user"]) + asked, TokenRole.TEXT)]
                openings.append(Opening(_header_ids(tokenizer, tokens, lead, header), 0, content, inside=True))
        else:
            first = _header_ids(tokenizer, tokens, list(tokens.begin), header)
            openings.append(Opening(first, 0, content, first=True))
            later = encode_pieces(tokenizer, behind, tokens).ids
            ids = _header_ids(tokenizer, tokens, behind, header)
            openings.append(Opening((*later, *ids), len(later), content))
    return tuple(dict.fromkeys(openings))


def _header_ids(tokenizer, tokens: ControlTokens, lead: list[Piece], header: Sequence[Piece]) -> tuple[int | None, ...]:
    """Ids of a header behind `lead`; None for a last one that white space of the content can join."""
    probes = ("a",) if tokens.dialect.trims else ("a", " a", "  a", "\na", "\n\na", "\r\n a")
    pieces = [*((value, TokenRole.TEXT) for value, _ in lead), *header]
    found = [encode_pieces(tokenizer, [*pieces, (probe, TokenRole.PROMPT)], tokens) for probe in probes]
    ids = [[i for i, role in zip(one.ids, one.roles, strict=True) if role == TokenRole.HEADER] for one in found]
    if len({(len(one), *one[:-1]) for one in ids}) > 1:
        raise ContractError(
            f"tokenizer {tokenizer.name_or_path!r}, {tokens.dialect.name}: found headers that white space behind them "
            f"makes other tokens ({ids[0]} and others), expected one that tells who speaks"
        )
    last = {one[-1] for one in ids}
    return (*ids[0][:-1], last.pop() if len(last) == 1 else None)

"""The dialects of the token contract: how each family of Llamas writes a dialog. This table alone tells them apart.

    a dialog = begin { header content [end of turn, after] }*

Names of control tokens within `begin` and headers stand for the tokens; all else there is text. Each has the chat
template with which its family was published in `templates/`, except Llama 3.1's, which is ours (`chat_template.jinja`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "ipython")
TALK = ("system", "user", "assistant")
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
START_HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
EOM, EOT, PYTHON_TAG = "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
INST, SYS = ("[INST]", "[/INST]"), ("<<SYS>>", "<</SYS>>")


@dataclass(frozen=True)
class Dialect:
    """How one family writes a dialog.

    Args:
        control: tokens that a tokenizer of this dialect has, beside one each of `bos` and `eos`.
        marks: texts that its chat template holds. A tokenizer whose tokens fit several dialects has the one whose marks
            its template holds.
        decides: its control tokens are its own; else a chat template without its marks is another format's.
        bos, eos: begin and end of a document; the first name that the vocabulary has.
        pads: what may fill rows: a token that stands for nothing else; the first that text never becomes.
        eot, eom, python_tag: end of turn, end of a message that a tool answers, tag of a tool call (None: it has none).
        headers: what opens a message, by role; a role without one cannot be written.
        begin: before the first message. after: text behind an end of turn.
        padding: texts before and behind the content of a role.
        trims: content is stripped of white space, as its template does it.
        system: how a system message is written into the first user's, where it has no header of its own.
        pairs: users and assistants take turns, and a user's message ends where the header of the answer stands.
        markers: texts of the format that are no control tokens; in what somebody typed they get a space within.
    """

    name: str
    template: str
    control: tuple[str, ...]
    marks: tuple[str, ...]
    bos: tuple[str, ...]
    eos: tuple[str, ...]
    pads: tuple[str, ...]
    eot: str
    headers: Mapping[str, str]
    eom: str | None = None
    python_tag: str | None = None
    begin: str = ""
    after: str = ""
    decides: bool = True
    trims: bool = False
    padding: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    system: str | None = None
    pairs: bool = False
    markers: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that it can write."""
        return tuple(role for role in ROLES if role in self.headers or (role == "system" and self.system))

    @property
    def chat_template(self) -> str:
        """The chat template saved with a model of this dialect."""
        return _read(self.template)

    def typed(self, text: str) -> str:
        """What somebody typed, without the format's markers: `[/INST]` becomes `[ /INST]`."""
        for marker in self.markers:
            text = text.replace(marker, f"{marker[0]} {marker[1:]}")
        return text


@cache
def _read(template: str) -> str:
    return (Path(__file__).parent / template).read_text()


def _headers(form: str, roles: tuple[str, ...]) -> dict[str, str]:
    return {role: form.format(role) for role in roles}


LLAMA_3_HEADER = f"{START_HEADER}{{}}{END_HEADER}\n\n"

DIALECTS = (
    Dialect(
        name="Llama 3.1",
        template="chat_template.jinja",
        control=(BOS, EOS, PAD, START_HEADER, END_HEADER, EOM, EOT, PYTHON_TAG),
        marks=(START_HEADER,),
        bos=(BOS,),
        eos=(EOS,),
        pads=(PAD,),
        eot=EOT,
        eom=EOM,
        python_tag=PYTHON_TAG,
        begin=BOS,
        headers=_headers(LLAMA_3_HEADER, ROLES),
        trims=True,
    ),
    # its ids are Llama 3.1's, with reserved tokens where that has the pad, eom and python_tag. The pad is taken over:
    # nothing predicts it. The two others are not: the model was not trained on them, and its template writes neither
    Dialect(
        name="Llama 3.0",
        template="templates/llama-3.0.jinja",
        control=(BOS, EOS, START_HEADER, END_HEADER, EOT),
        marks=(START_HEADER,),
        bos=(BOS,),
        eos=(EOS,),
        pads=(PAD, "<|reserved_special_token_2|>"),
        eot=EOT,
        begin=BOS,
        headers=_headers(LLAMA_3_HEADER, ROLES),
        trims=True,
    ),
    # documents begin and end with <|endoftext|>, as SmolLM2 was pretrained; dialogs have no begin of text
    Dialect(
        name="ChatML",
        template="templates/chatml.jinja",
        control=(IM_START, IM_END),
        marks=(IM_START,),
        bos=("<|endoftext|>", "<s>"),
        eos=("<|endoftext|>", "</s>"),
        pads=("<pad>", "<|pad|>", "[PAD]", "<|fim_pad|>", "<empty_output>", "<unk>"),
        eot=IM_END,
        headers=_headers(f"{IM_START}{{}}\n", TALK),
        after="\n",
    ),
    Dialect(
        name="Llama 2",
        template="templates/llama-2.jinja",
        control=("<s>", "</s>"),
        marks=INST,
        decides=False,
        bos=("<s>",),
        eos=("</s>",),
        pads=("<pad>", "[PAD]", "<unk>"),
        eot="</s>",
        headers={"user": f"<s>{INST[0]}", "assistant": f" {INST[1]}"},
        padding={"user": (" ", ""), "assistant": (" ", " ")},
        trims=True,
        system=f"{SYS[0]}\n{{system}}\n{SYS[1]}\n\n{{user}}",
        pairs=True,
        markers=(*INST, *SYS),
    ),
    # its headers are text, but stand behind </s> alone, which nobody can type
    Dialect(
        name="Zephyr",
        template="templates/zephyr.jinja",
        control=("<s>", "</s>"),
        marks=("<|user|>", "<|assistant|>"),
        decides=False,
        bos=("<s>",),
        eos=("</s>",),
        pads=("<pad>", "[PAD]", "<unk>"),
        eot="</s>",
        headers=_headers("<|{}|>\n", TALK),
        after="\n",
    ),
)


class ContractError(ValueError):
    """A dialog, tokenizer or model that does not fit the token contract."""


def known(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """The id of a token, None where the vocabulary has none of this name."""
    found = tokenizer.convert_tokens_to_ids(name)
    return found if found is not None and tokenizer.convert_ids_to_tokens(found) == name else None


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template that comes with a tokenizer; of several the default one."""
    found = tokenizer.chat_template
    found = found.get("default") if isinstance(found, dict) else found
    return found if isinstance(found, str) else ""


def templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict], **options):
    """What a tokenizer's chat template makes of a dialog; None where it does not write it, whatever it raises."""
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except Exception:
        return None


def dialect_of(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """The dialect of a tokenizer: by its control tokens, and by its chat template where several fit.

    Raises:
        ContractError: none fits.
    """
    template = template_of(tokenizer)
    lacks = {dialect.name: _missing(tokenizer, dialect) for dialect in DIALECTS}
    fit = [dialect for dialect in DIALECTS if not lacks[dialect.name]]
    written = [dialect for dialect in fit if all(mark in template for mark in dialect.marks)]
    candidates = written or [dialect for dialect in fit if dialect.decides or not template]
    if candidates:
        return candidates[0]
    for dialect in fit:
        lacks[dialect.name] = [f"{mark} in its chat template" for mark in dialect.marks if mark not in template]
    found = "; ".join(f"for {name} no {', '.join(names)}" for name, names in lacks.items())
    raise ContractError(
        f"tokenizer {tokenizer.name_or_path!r}: found {found}; expected the control tokens and the chat template of "
        "one of these dialects. llama-align add-tokens adds Llama 3.1's to a model; recipes/tokenizer.py trains one"
    )


def _missing(tokenizer: PreTrainedTokenizerBase, dialect: Dialect) -> list[str]:
    alone = [name for name in dialect.control if known(tokenizer, name) is None]
    choices = [names for names in (dialect.bos, dialect.eos) if not set(names) & set(dialect.control)]
    some = [" or ".join(names) for names in choices if all(known(tokenizer, name) is None for name in names)]
    return alone + some

"""The token contract and the tokenizers that keep it. Knows nothing of models or training."""

from .contract import ControlTokens, Rendered, encode_text
from .dialects import DIALECTS, ROLES, ContractError, Dialect
from .infilling import (
    InfillingTokens,
    Split,
    decode_middle,
    document_of,
    encode_infilled,
    infilling_prompt,
)
from .render import MEANT, adopt, decode_answer, encode_answer, render, render_prompt
from .roles import FORMAT, LEARNED, TokenRole, roles_of
from .tokenizer import CHAT_TEMPLATE, special_tokens, train_tokenizer
from .tools import CODE, PYTHON_TAG, Answer, Message, as_answer, as_message, as_text, fault, settled, with_tools

__all__ = [
    "CHAT_TEMPLATE",
    "CODE",
    "DIALECTS",
    "FORMAT",
    "LEARNED",
    "MEANT",
    "PYTHON_TAG",
    "ROLES",
    "Answer",
    "ContractError",
    "ControlTokens",
    "Dialect",
    "InfillingTokens",
    "Message",
    "Rendered",
    "Split",
    "TokenRole",
    "adopt",
    "as_answer",
    "as_message",
    "as_text",
    "decode_answer",
    "decode_middle",
    "document_of",
    "encode_answer",
    "encode_infilled",
    "encode_text",
    "fault",
    "infilling_prompt",
    "render",
    "render_prompt",
    "roles_of",
    "settled",
    "special_tokens",
    "train_tokenizer",
    "with_tools",
]

"""The token contract and the tokenizers that keep it. Knows nothing of models or training."""

from .contract import ControlTokens, Rendered, encode_text
from .dialects import DIALECTS, ROLES, ContractError, Dialect
from .render import MEANT, Message, adopt, decode_answer, encode_answer, render, render_prompt
from .roles import FORMAT, LEARNED, TokenRole, roles_of
from .tokenizer import CHAT_TEMPLATE, special_tokens, train_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "DIALECTS",
    "FORMAT",
    "LEARNED",
    "MEANT",
    "ROLES",
    "ContractError",
    "ControlTokens",
    "Dialect",
    "Message",
    "Rendered",
    "TokenRole",
    "adopt",
    "decode_answer",
    "encode_answer",
    "encode_text",
    "render",
    "render_prompt",
    "roles_of",
    "special_tokens",
    "train_tokenizer",
]

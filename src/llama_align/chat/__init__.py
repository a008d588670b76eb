"""The token contract and the tokenizers that keep it. Knows nothing of models or training."""

from .contract import (
    FORMAT,
    LEARNED,
    MEANT,
    ROLES,
    ContractError,
    ControlTokens,
    Message,
    Rendered,
    TokenRole,
    decode_answer,
    encode_answer,
    encode_text,
    render,
    render_prompt,
    roles_of,
)
from .tokenizer import CHAT_TEMPLATE, special_tokens, train_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "FORMAT",
    "LEARNED",
    "MEANT",
    "ROLES",
    "ContractError",
    "ControlTokens",
    "Message",
    "Rendered",
    "TokenRole",
    "decode_answer",
    "encode_answer",
    "encode_text",
    "render",
    "render_prompt",
    "roles_of",
    "special_tokens",
    "train_tokenizer",
]

"""Meta's own tokenizer and `ChatFormat` (the package llama-models) give the ids that rendering gives.

The package is no dependency. Into an environment of its own that sees this one's packages:

    pip install --no-deps llama-models==0.3.0 tiktoken==0.14.0 fairscale==0.4.13
    python -m pytest tests/chat/test_meta.py tests/models/test_meta.py

(fairscale is for the model alone; pydantic, pillow and regex are here already.) Without it the tests are skipped.
"""

import random
import unicodedata
from pathlib import Path

import pytest

pytest.importorskip("llama_models.llama3.chat_format", reason="llama-models is not installed")

from llama_models.datatypes import RawMessage, StopReason, ToolCall
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from llama_align.chat import ControlTokens, decode_answer, encode_text, render

from .test_contract import random_dialog
from .test_tools import tool_dialog

END = {"eom": StopReason.end_of_message, "eot": StopReason.end_of_turn}


@pytest.fixture(scope="module")
def theirs():
    return ChatFormat(Tokenizer.get_instance())


@pytest.fixture(scope="module")
def ours(theirs):
    """Meta's vocabulary file as the fast tokenizer that transformers makes of it."""
    import llama_models.llama3

    tokenizer = theirs.tokenizer
    file = Path(llama_models.llama3.__file__).parent / "tokenizer.model"
    names = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.get)
    fast = TikTokenConverter(str(file), pattern=tokenizer.pat_str, extra_special_tokens=names).converted()
    return PreTrainedTokenizerFast(tokenizer_object=fast, clean_up_tokenization_spaces=False)


def by_meta(theirs: ChatFormat, dialog: list[dict]) -> list[int]:
    """The ids of a dialog before the header of the next answer. Meta strips nothing: what we strip comes stripped."""
    messages = []
    for message in dialog:
        calls = [
            ToolCall(call_id="", tool_name=call["name"], arguments=call["arguments"])
            for call in message.get("tool_calls", ())
        ]
        role = {"ipython": "tool"}.get(message["role"], message["role"])
        content, end = message["content"].strip(), END[message.get("end", "eot")]
        messages.append(RawMessage(role=role, content=content, stop_reason=end, tool_calls=calls))
    return theirs.encode_dialog_prompt(messages).tokens


def check(ours, theirs, dialogs: list[list[dict]]) -> None:
    tokens = ControlTokens.of(ours)
    for dialog in dialogs:
        found = render(ours, dialog, add_generation_prompt=True, tokens=tokens).ids
        assert found == by_meta(theirs, dialog), dialog


def test_2000_dialogs_without_tools(ours, theirs):
    draw = random.Random(0)
    dialogs = [random_dialog(draw) for _ in range(2000)]
    for message in (message for dialog in dialogs for message in dialog):
        if message["role"] != "assistant":
            message.pop("end", None)  # Meta ends no other message with eom
    check(ours, theirs, dialogs)


def test_2000_dialogs_with_tools(ours, theirs):
    draw = random.Random(1)
    # Meta's types hold no arguments more than one list or object deep
    dialogs = [tool_dialog(draw, most=3, words=number % 2 == 0, nested=False) for number in range(2000)]
    assert sum("tool_calls" in message for dialog in dialogs for message in dialog) > 2000
    check(ours, theirs, dialogs)


def test_every_control_token_has_metas_id(ours, theirs):
    tokens, special = ControlTokens.of(ours), theirs.tokenizer.special_tokens
    names = {"bos": "begin_of_text", "eos": "end_of_text", "pad": "finetune_right_pad_id", "eom": "eom_id"}
    for field, name in (names | {"eot": "eot_id", "python_tag": "python_tag"}).items():
        assert getattr(tokens, field) == special[f"<|{name}|>"]
    assert tokens.ids == {name: special[name] for name in tokens.ids}
    assert {"<|start_header_id|>", "<|end_header_id|>"} <= set(tokens.ids)
    assert list(tokens.terminators) == [special[f"<|{name}|>"] for name in ("eot_id", "eom_id", "end_of_text")]


def test_a_sampled_answer_is_read_as_meta_reads_it(ours, theirs):
    """Code and its end alike. What Meta's reader then finds in an answer's text, a search or JSON, stays that text."""
    tokens = ControlTokens.of(ours)
    for text in ("x = 1\nprint(x)", "é東京", "plot(1)"):
        for end, name in ((tokens.eom, "eom"), (tokens.eot, "eot")):
            ids = [tokens.python_tag, *encode_text(ours, text)]
            meant = theirs.decode_assistant_message([*ids, end], END[name])
            found = decode_answer(ours, [*ids, end])
            (call,), (wanted,) = found["tool_calls"], meant.tool_calls
            assert (call["name"], call["arguments"]) == (wanted.tool_name.value, wanted.arguments)
            assert END[found.get("end", "eot")] == meant.stop_reason


def test_any_text_has_metas_ids(ours, theirs):
    draw = random.Random(2)
    for _ in range(2000):
        characters = (chr(draw.randrange(draw.choice([0x80, 0x3000, 0x110000]))) for _ in range(draw.randint(1, 30)))
        text = "".join(c for c in characters if unicodedata.category(c) != "Cs")
        assert encode_text(ours, text) == theirs.tokenizer.encode(text, bos=False, eos=False), text

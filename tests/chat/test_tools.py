"""Calls of tools: rendering, the chat template, the roles and what is read back from sampled ids say the same."""

import random

import pytest
import torch
from jinja2 import TemplateError

from llama_align.chat import (
    CODE,
    ContractError,
    ControlTokens,
    TokenRole,
    as_message,
    as_text,
    decode_answer,
    encode_answer,
    encode_text,
    render,
    render_prompt,
    roles_of,
    settled,
    with_tools,
)
from llama_align.chat.dialects import END_HEADER, START_HEADER

from .test_contract import any_tokenizer, control_ids, random_text  # noqa: F401

NAMES = ("brave_search", "wolfram_alpha", "photogen", CODE, "trending_songs", "<|eot_id|>", "東京")
USER = {"role": "user", "content": "bado"}


def random_value(draw: random.Random, depth: int = 2):
    kind = draw.randrange(8 if depth else 6)
    if kind == 6:
        return [random_value(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    if kind == 7:
        return {random_text(draw): random_value(draw, depth - 1) for _ in range(draw.randint(0, 3))}
    return (random_text(draw), draw.randint(-(10**9), 10**9), draw.gauss(0, 100), True, False, None)[kind]


def random_call(draw: random.Random, nested: bool = True) -> dict:
    name, depth = draw.choice(NAMES), 2 if nested else 0
    if name == CODE:
        return {"name": name, "arguments": {"code": random_text(draw)}}
    if name in NAMES[:3]:
        return {"name": name, "arguments": {"query": random_text(draw)}}
    return {
        "name": name,
        "arguments": {random_text(draw): random_value(draw, depth) for _ in range(draw.randint(0, 3))},
    }


def tool_dialog(draw: random.Random, most: int = 1, words: bool = False, nested: bool = True) -> list[dict]:
    """A dialog with calls: of one message at most `most`, with `words` also beside content."""
    dialog = [{"role": "system", "content": random_text(draw)}] * draw.randint(0, 1)
    for _ in range(draw.randint(1, 3)):
        dialog.append({"role": "user", "content": random_text(draw)})
        for _ in range(draw.randint(0, 2)):
            calls = [random_call(draw, nested) for _ in range(draw.randint(1, most))]
            content = random_text(draw).strip() if words else ""
            end = {"end": draw.choice(["eom", "eot"])} if draw.random() < 0.9 else {}
            dialog.append({"role": "assistant", "content": content, "tool_calls": calls} | end)
            dialog.append({"role": draw.choice(["ipython", "tool"]), "content": random_text(draw)})
        dialog.append({"role": "assistant", "content": random_text(draw)})
    return dialog[: draw.randint(1, len(dialog))]


def wrapped(dialog: list[dict]) -> list[dict]:
    """The same dialog with calls as OpenAI writes them."""

    def outer(call):
        return {"id": "c", "type": "function", "function": call}

    return [
        m | {"content": None, "tool_calls": [outer(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m
        for m in dialog
    ]


def test_the_template_writes_calls_as_rendering_does(any_tokenizer):  # noqa: F811
    tokens, draw, called = ControlTokens.of(any_tokenizer), random.Random(0), 0
    for number in range(500):
        dialog = tool_dialog(draw)
        ours = render(any_tokenizer, dialog, add_generation_prompt=number % 2 == 0, tokens=tokens)
        for same in (dialog, wrapped(dialog)):
            found = any_tokenizer.apply_chat_template(same, add_generation_prompt=number % 2 == 0, return_dict=False)
            assert found == ours.ids, dialog
        assert render(any_tokenizer, wrapped(dialog), add_generation_prompt=number % 2 == 0, tokens=tokens) == ours
        called += sum("tool_calls" in message for message in dialog)
    assert called > 400


def test_the_templates_assistant_mask_covers_calls(any_tokenizer):  # noqa: F811
    draw = random.Random(1)
    for dialog in [tool_dialog(draw) for _ in range(300)]:
        if not any(message["role"] == "assistant" for message in dialog):
            continue
        out = any_tokenizer.apply_chat_template(dialog, return_dict=True, return_assistant_tokens_mask=True)
        assert out["assistant_masks"] == [int(label != -100) for label in render(any_tokenizer, dialog).labels], dialog


def test_roles_of_calls_are_read_back(any_tokenizer):  # noqa: F811
    tokens, draw = ControlTokens.of(any_tokenizer), random.Random(2)
    for _ in range(500):
        some = render(any_tokenizer, tool_dialog(draw, most=3, words=True), tokens=tokens)
        assert roles_of(torch.tensor([some.ids]), tokens)[0].tolist() == some.roles
        assert all((i == tokens.python_tag) == (r == TokenRole.TOOL) for i, r in zip(some.ids, some.roles, strict=True))


def test_what_a_call_says_never_becomes_a_control_token(any_tokenizer):  # noqa: F811
    tokens, control, draw = ControlTokens.of(any_tokenizer), control_ids(any_tokenizer), random.Random(3)
    headers = tokens.ids[START_HEADER], tokens.ids[END_HEADER]
    for _ in range(500):
        dialog = tool_dialog(draw, most=3, words=True)
        placed = [tokens.bos]
        for m in dialog:
            coded = m.get("tool_calls") and m["tool_calls"][0]["name"] == CODE
            end = tokens.eom if m.get("end") == "eom" else tokens.eot
            placed += [*headers, *[tokens.python_tag] * bool(coded), end]
        assert [i for i in render(any_tokenizer, dialog).ids if i in control] == placed, dialog


def test_every_sampled_answer_encodes_to_what_was_sampled(any_tokenizer):  # noqa: F811
    tokens, draw = ControlTokens.of(any_tokenizer), random.Random(4)
    for number in range(600):
        text, tag, end = random_text(draw).strip(), draw.random() < 0.5, draw.choice([tokens.eom, tokens.eot])
        ids = [*[tokens.python_tag] * tag, *encode_text(any_tokenizer, text)]
        answer = decode_answer(any_tokenizer, [*ids, end])
        again = encode_answer(any_tokenizer, answer)
        plain = any_tokenizer.decode(encode_text(any_tokenizer, text))
        if plain == text == text.strip():  # the mark is dropped, which may leave white space at an end
            assert again == [*ids, end], text
            assert encode_answer(any_tokenizer, answer, finished=False) == ids
        assert isinstance(answer, str) == (not tag and end == tokens.eot)
        assert as_text(answer) == "<|python_tag|>" * tag + (plain if tag else plain.strip())
        assert render(any_tokenizer, [USER, as_message(answer)]).ids == render_prompt(any_tokenizer, [USER]) + again
        assert encode_answer(any_tokenizer, settled(answer)) == again, number


def test_a_sampled_call_keeps_its_tag_its_white_space_and_its_end(tokenizer):
    tokens = ControlTokens.of(tokenizer)
    code = "\n  if x:\n    print(1)\n"
    ids = [tokens.python_tag, *encode_text(tokenizer, code), tokens.eom]
    call = {"name": CODE, "arguments": {"code": code}}
    assert decode_answer(tokenizer, ids) == {"role": "assistant", "content": "", "tool_calls": [call], "end": "eom"}
    cut = {"role": "assistant", "content": "", "tool_calls": [call], "end": "eot"}
    assert decode_answer(tokenizer, ids[:-1]) == cut, "read again without an end it would wait for a tool"
    waits = [*encode_text(tokenizer, "kilu"), tokens.eom]
    assert decode_answer(tokenizer, waits) == {"role": "assistant", "content": "kilu", "end": "eom"}
    inside = [*encode_text(tokenizer, "kilu"), tokens.python_tag, *encode_text(tokenizer, "x = 1"), tokens.eot]
    assert decode_answer(tokenizer, inside) == "kilu<|python_tag|>x = 1", "no call there, but nothing is lost"
    assert decode_answer(tokenizer, [tokens.ids[START_HEADER], *waits[:-1], tokens.eot]) == "kilu"


def test_calls_as_llama_3_1_writes_them(tokenizer):
    def said(*calls, content=""):
        return as_text({"role": "assistant", "content": content, "tool_calls": list(calls)})

    assert said({"name": CODE, "arguments": {"code": "x = 1\n"}}) == "<|python_tag|>x = 1\n"
    assert said({"name": "brave_search", "arguments": {"query": "gold"}}) == 'brave_search.call(query="gold")'
    own = {"name": "get", "arguments": {"city": "Zürich", "n": None}}
    assert said(own) == '{"type": "function", "name": "get", "parameters": {"city": "Z\\u00fcrich", "n": null}}'
    assert said(own, own, content=" Hm. ") == "Hm." + 2 * said(own)


CALL = {"name": "f", "arguments": {}}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"role": "user", "tool_calls": [CALL]}, "tool_calls"),
        ({"tool_calls": "f()"}, "tool_calls"),
        ({"tool_calls": CALL}, "tool_calls"),
        ({"tool_calls": ["f"]}, "tool_calls[0]"),
        ({"tool_calls": [{"name": "f"}]}, "tool_calls[0]"),
        ({"tool_calls": [CALL | {"more": 1}]}, "tool_calls[0]"),
        ({"tool_calls": [{"function": CALL, "more": 1}]}, "tool_calls[0]"),
        ({"tool_calls": [{"function": CALL, "type": "code"}]}, "tool_calls[0]"),
        ({"tool_calls": [{"function": "f"}]}, "tool_calls[0]"),
        ({"tool_calls": [CALL | {"name": " "}]}, "tool_calls[0].name"),
        ({"tool_calls": [CALL | {"name": 5}]}, "tool_calls[0].name"),
        ({"tool_calls": [CALL | {"arguments": "{}"}]}, "tool_calls[0].arguments"),
        ({"tool_calls": [CALL | {"arguments": None}]}, "tool_calls[0].arguments"),
        ({"tool_calls": [{"name": CODE, "arguments": {"code": 5}}]}, "tool_calls[0].arguments"),
        ({"tool_calls": [{"name": "photogen", "arguments": {"query": "x", "n": 2}}]}, "tool_calls[0].arguments"),
        ({"tool_calls": [{"name": "photogen", "arguments": {}}]}, "tool_calls[0].arguments"),
    ],
)
def test_what_is_no_call_is_refused_by_both(tokenizer, changes, place):
    dialog = [USER, {"role": "assistant", "content": ""} | changes]
    with pytest.raises(ContractError) as caught:
        render(tokenizer, dialog)
    assert str(caught.value).startswith(f"message 1, field '{place}': found ")
    with pytest.raises(TemplateError, match="message 1, field tool_calls"):
        tokenizer.apply_chat_template(dialog)


def test_arguments_beyond_json_are_refused(tokenizer):
    for value in (float("nan"), {1, 2}):
        message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": value}}]}
        with pytest.raises(ContractError, match=r"tool_calls\[0\].arguments': found .*, expected what JSON can hold"):
            render(tokenizer, [message])


def test_the_template_refuses_what_it_would_encode_otherwise(tokenizer):
    """Meta encodes content and every call by itself; a template's text is encoded as a whole."""
    for message in ({"content": "So.", "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL, CALL]}):
        render(tokenizer, [{"role": "assistant"} | message])
        with pytest.raises(TemplateError, match="tool_calls: expected one call and no content"):
            tokenizer.apply_chat_template([{"role": "assistant"} | message])


def test_tools_stand_in_the_system_message():
    tool = {"type": "function", "function": {"name": "f", "description": "é", "parameters": {}}}
    (system, user) = with_tools([USER], [tool])
    assert user == USER
    assert system["content"].startswith("Environment: ipython\n\nAnswer the user's question by making use of the")
    assert '{\n    "type": "function",\n    "function": {\n        "name": "f",\n' in system["content"]
    assert system["content"].endswith("\n}\n\nReturn function calls in JSON format.")
    (system, user) = with_tools([{"role": "system", "content": "Be brief."}, USER], [tool, tool])
    assert system["content"].startswith("Environment: ipython\n\nBe brief.\n\nAnswer the user's")
    assert system["content"].count('"é"') == 2

"""A model card shows what it was given, whatever that contains: read back by a Markdown parser and as YAML."""

import json
import random
import re

import pytest
import yaml
from markdown_it import MarkdownIt

from llama_align.publish.made import RunFacts
from llama_align.publish.markdown import block, code, plain
from llama_align.trainers.base import HerdTrainerMixin

HOSTILE = ["|", "`", "``", "```", "<img src=x onerror=alert(1)>", "</td>", "[a](http://b)", "![x](y)", "*b*", "__c__"]
HOSTILE += ["_d_", "---", "# h", "\n", "\n\n", "{name}", "$x$", "~~s~~", "&lt;", "\\", "\\|", "a: b", '"', "'", "é"]
HOSTILE += ["loss/nll", "<|eot_id|>"]
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [*HOSTILE, *("".join(draw.choices(HOSTILE, k=draw.randint(1, 6))) for _ in range(count))]


def shown(text: str) -> str:
    return " ".join(text.split())


def cells(markdown: str) -> list:
    """The parts of every cell of the tables."""
    tokens = PARSER.parse(markdown)
    assert not any(token.type.startswith("html") for token in tokens)
    after = {i + 1 for i, token in enumerate(tokens) if token.type in ("td_open", "th_open")}
    return [tokens[i].children for i in sorted(after)]


def read(parts) -> str:
    assert {part.type for part in parts} <= {"text", "code_inline", "text_special"}, parts
    return "".join(part.content for part in parts)


def test_any_text_in_a_cell_is_shown_as_it_is():
    for text in texts(500):
        found = cells(f"| | |\n|---|---|\n| {plain(text)} | {code(text)} |\n")[2:]
        assert [read(found[0]), read(found[1]).strip()] == [shown(text), shown(text)], text


def test_any_command_stays_in_its_block():
    for text in texts(200, seed=1):
        tokens = PARSER.parse("\n".join(["Made by:", "", *block(text, "sh"), "", "## After"]))
        (fence,) = [token for token in tokens if token.type == "fence"]
        assert (fence.content, fence.info, tokens[-2].content) == (f"{text}\n", "sh", "After"), text


class Bare(HerdTrainerMixin):
    """A trainer with a card."""

    _tag_names = ("trl", "dpo", "a: b, [c]")
    paper = "a paper"

    def __init__(self, folder, text):
        class Named:
            pass

        self.args, self.model, self.state = Named(), Named(), Named()
        self.args.output_dir, self.state.global_step = str(folder), 3
        self.model.config = Named()
        self.model.config._name_or_path = text
        self.objective = text
        self.facts = RunFacts(
            text, {"preference": [text, "b.jsonl"]}, {text: text, "deep": {"x": 0.5}}, {text: "a b).svg"}
        )

    def is_world_process_zero(self):
        return True


@pytest.mark.parametrize("seed", range(40))
def test_every_field_of_a_card_survives(seed, tmp_path):
    text = "a" + texts(40, seed)[-1 - seed] + "z"
    Bare(tmp_path, text).create_model_card(text)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    found = yaml.safe_load(front)
    assert found.pop("base_model", text) == text  # a name that the Hub could have
    wanted = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    assert found == wanted | {"tags": ["llama-align", "dpo", "a: b, [c]"]}
    tokens = PARSER.parse(body)
    (title,) = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h1"]
    assert read(title.children) == shown(text)
    found = [read(parts).strip() for parts in cells(body)]
    rows = {*zip(found[::2], found[1::2], strict=True)}
    data = "data (data_cards/preference.md of llama_align)"
    wanted = {"started from": text, "objective": text, text: text, "deep/x": "0.5", data: f"{text}, b.jsonl"}
    assert {(shown(name), shown(value)) for name, value in wanted.items()} <= rows
    fences = [(token.info, token.content) for token in tokens if token.type == "fence"]
    assert fences[0] == ("sh", f"{text}\n")
    assert f".from_pretrained({json.dumps(text, ensure_ascii=False)})" in fences[1][1]
    (image,) = [part for token in tokens for part in token.children or () if part.type == "image"]
    assert (read(image.children), image.attrs["src"]) == (shown(text), "a%20b%29.svg")

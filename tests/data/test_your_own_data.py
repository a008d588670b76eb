"""The page "Your own data" is true: its examples read as it says, and it has every option and every format."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from llama_align.data import DataSource, load_records
from llama_align.data.cures import PAGE
from llama_align.data.sources import FORMATS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
BLOCKS = re.compile(r"```jsonl\n(.*?)```\n\n```yaml (\w+)\n(.*?)```\n\n```json\n(.*?)```", re.DOTALL)
EXAMPLES = BLOCKS.findall(TEXT)
DEFAULTS = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", TEXT, re.MULTILINE))


def read(tmp_path, rows: str, kind: str, options: dict) -> list[dict]:
    path = tmp_path / "rows.jsonl"
    path.write_text(rows, encoding="utf-8")
    return [record.to_dict() for record in load_records([{"path": str(path), **options}], kind)[0]]


@pytest.mark.parametrize(("rows", "kind", "options", "records"), EXAMPLES)
def test_an_example_reads_as_the_page_says(tmp_path, rows, kind, options, records):
    options = yaml.safe_load(options)
    expected = json.loads(records)
    assert read(tmp_path, rows, kind, options) == expected
    if options.get("format") not in (None, "records", "columns"):  # the form is seen from the rows alone
        assert read(tmp_path, rows, kind, options | {"format": "auto"}) == expected


def test_every_block_is_part_of_an_example():
    assert len(EXAMPLES) == TEXT.count("```jsonl") == TEXT.count("```json\n") == TEXT.count("```yaml ") > 12


def test_every_option_and_format_is_there_with_its_default():
    assert list(DEFAULTS) == [f.name for f in fields(DataSource)]
    made = DataSource("${X}/rows.jsonl")
    for name, said in DEFAULTS.items():
        default = getattr(made, name)
        words = {"path": "(needed)", "name": "the file's name"}
        assert said == words.get(name, "none" if default is None else f"`{json.dumps(default).strip(chr(34))}`")
    formats = re.search(r"^\| `format` .*", TEXT, re.MULTILINE)[0]
    assert set(re.findall(r"`(\w+)`", formats)) - {"format"} == set(FORMATS)
    shown = {yaml.safe_load(options).get("format", "auto") for _, _, options, _ in EXAMPLES}
    assert shown == set(FORMATS) - {"tokens"}  # tables of ids, which are no records: docs/pretraining.md


def test_the_page_is_linked():
    assert f"]({PAGE})" in (ROOT / "README.md").read_text(encoding="utf-8")

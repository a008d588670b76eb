"""What the cards show is what the code reads: examples of records, and counts of the real public files."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard

from llama_align.data import GRADES, KINDS, load_records, split_by_prompt

CARDS = Path(__file__).parents[2] / "data_cards"
SOURCES = sorted(path.stem for path in (CARDS / "sources").glob("*.md"))


def block(card: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", card, re.DOTALL)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_record_fits_and_every_field_is_described(kind):
    card = (CARDS / f"{kind}.md").read_text(encoding="utf-8")
    row = json.loads(block(card, "json"))
    assert KINDS[kind].from_dict(row).to_dict() == row
    described = {name for cell in re.findall(r"^\| ([\w, ]+) \|", card, re.MULTILINE) for name in cell.split(", ")}
    assert described - {"field"} == set(KINDS[kind].names())


@pytest.mark.parametrize("path", sorted(CARDS.rglob("*.md")), ids=lambda path: path.stem)
def test_a_card_begins_with_what_the_hub_reads(path):
    card = DatasetCard.load(path)
    assert "llama-align" in card.data.tags
    if path.parent.name == "sources":
        assert card.data.license
        assert card.data.size_categories


@pytest.mark.shared
@pytest.mark.parametrize("name", SOURCES)
def test_a_real_source_reads_as_its_card_says(name, shared):
    card = (CARDS / "sources" / f"{name}.md").read_text(encoding="utf-8")
    kind = re.search(r"Read as `(\w+)`", card)[1]
    records, report = load_records(yaml.safe_load(block(card, "yaml")), kind)
    assert str(report).replace(str(shared.parent), "shared") == block(card, "text").rstrip("\n")
    assert all(type(record) is KINDS[kind] for record in records)
    if kind == "preference":
        assert {record.grade for record in records} <= set(GRADES)
        splits = split_by_prompt(records, {"train": 0.9, "test": 0.1})
        assert splits["test"], "a tenth of the prompts of every real set is some"


@pytest.mark.shared
def test_real_files_mix_in_their_shares(shared):
    files = {"stories_african_pratham_en": 3, "stories_fairytaleqa": 1}
    sources = [{"path": f"{shared}/pretrain/{name}.jsonl.xz", "weight": weight} for name, weight in files.items()]
    records, report = load_records(sources, "document", seed=3)
    assert [tally.used for tally in report.tallies] == [625, 208]
    assert len(records) == 833


@pytest.mark.shared
def test_a_real_preference_set_serves_as_prompts_and_demonstrations(shared):
    source = {"path": f"{shared}/preference/safety_hh_harmless_binary.jsonl.xz", "kind": "preference", "skip": "count"}
    prompts, _ = load_records([source | {"objective": "safety"}], "prompt")
    demonstrations, _ = load_records([source], "demonstration")
    assert len(prompts) == len(demonstrations) == 1847
    assert all(d.messages[:-1] == p.messages for d, p in zip(demonstrations, prompts, strict=True))

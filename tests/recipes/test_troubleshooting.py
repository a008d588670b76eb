"""docs/troubleshooting.md against the failures it shows, and one of them made small from its start to its picture."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import llama_align
from benchmarks.failures import __main__ as command
from benchmarks.failures.arms import RECIPES
from benchmarks.failures.catalogue import FAILURES
from benchmarks.failures.kinds import ARMS, Start
from llama_align import LlamaHerdForCausalLM
from llama_align.chat import train_tokenizer
from llama_align.sandbox import SandboxConfig, write_sandbox
from tests.docs.reading import anchor

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
SHOWN = {title: body for title, body in SECTIONS.items() if "**Symptom.**" in body}
COMMAND = re.compile(r"^    python -m benchmarks\.failures (\w+)$", re.M)
STEPS = ("sandbox", "tokenizer", "pretrain", "sft", "annotate", "reward_helpfulness", "reward_safety")
FEW = {"documents": 60, "documents_heldout": 5, "demonstrations": 40, "preferences": 20, "preferences_heldout": 5} | {
    "prompts": 10, "validation_helpful": 4, "validation_lookalike": 1, "validation_secret": 1,
    "heldout_helpful": 10, "heldout_lookalike": 2, "heldout_secret": 2,
}  # fmt: skip


def test_every_failure_is_on_the_page_with_its_picture_and_its_command():
    assert sorted(COMMAND.findall(PAGE)) == sorted(FAILURES)
    assert {path.stem for path in (DOCS / "troubleshooting").glob("*.svg")} == set(FAILURES)
    for name in FAILURES:
        assert f"](troubleshooting/{name}.svg)" in PAGE
    for title, body in SHOWN.items():
        (name,) = COMMAND.findall(body)
        assert f"](troubleshooting/{name}.svg)" in body
        assert all(f"**{part}.**" in body for part in ("Symptom", "Cause", "Cure")), title


def test_the_table_leads_to_every_section():
    table = PAGE[: PAGE.index("\n## ")]
    assert set(re.findall(r"^\| .* \| \[.*\]\(#([\w-]+)\) \|$", table, re.M)) == {anchor(title) for title in SHOWN}


@pytest.fixture
def empty_start(tmp_path):
    """A run whose steps are finished folders with nothing in them."""
    for step in STEPS:
        (tmp_path / f"{step}-0123456789").mkdir()
        (tmp_path / f"{step}-0123456789" / "step.json").touch()
    return Start(tmp_path)


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_arms_set_are_options_of_their_recipe(name, empty_start, tmp_path):
    failure = FAILURES[name]
    if failure.config == "sft.yaml" and failure.measure:
        pytest.skip("its arms are no options")
    for arm in ARMS:
        options = empty_start.fill({**failure.common, **failure.arm(arm).options, "output_dir": str(tmp_path / "run")})
        parts = llama_align.load(RECIPES / failure.config, **options).parts  # refuses others
        known = {field.name for part in parts for field in fields(part)}
        assert set(options) <= known
    assert failure.until in STEPS


def test_a_step_is_found_by_its_name_in_either_plan(tmp_path):
    for folder in ("annotate-1-0123456789", "annotate-2-0123456789", "sft-0123456789", "sft_best-0123456789"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "step.json").touch()
    start = Start(tmp_path)
    assert start("annotate").name == "annotate-1-0123456789"
    assert start.fill({"a": ["{sft}/x", 1, "plain"]}) == {"a": [f"{tmp_path}/sft-0123456789/x", 1, "plain"]}
    with pytest.raises(SystemExit, match="found no finished step reward_safety"):
        start("reward_safety")


@pytest.fixture
def tiny_start(empty_start):
    """The same with a small world and a model of random weights."""
    write_sandbox(empty_start("sandbox"), SandboxConfig(**FEW))
    texts = (empty_start("sandbox") / "corpus.jsonl").read_text().splitlines()
    place = empty_start("pretrain")
    train_tokenizer(texts, 400, num_special_tokens=16).save_pretrained(place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = llama_align.LlamaHerdConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=256, **size,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaHerdForCausalLM(config).save_pretrained(place)
    return empty_start


def test_a_failure_from_its_start_to_its_picture(tiny_start, tmp_path, monkeypatch, capsys):
    whole, asked = FAILURES["prompt_loss"], []
    out = tmp_path / "out"
    line = ["failures", "prompt_loss", "--run", str(tiny_start.run), "--output_dir", str(out), "--seeds", "3"]
    monkeypatch.setattr("sys.argv", line)
    short = {**whole.common, "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 1}

    def run(seen: bool) -> int:
        def shows(healthy, ill) -> bool:
            asked.append((healthy, ill))
            return seen

        monkeypatch.setitem(FAILURES, "prompt_loss", replace(whole, common=short, every=2, shows=shows))
        return command.main()

    assert run(seen=True) == 0
    assert "seen with 1 of 1 seeds" in capsys.readouterr().out
    ((healthy, ill),) = asked
    assert healthy["loss"] != ill["loss"], "the loss of all tokens is another"
    assert [step for step, _ in ill["held_out/loss"]] == [0, 2]
    assert healthy["held_out/loss"][0] == ill["held_out/loss"][0], "one start"
    assert json.loads((out / "prompt_loss.json").read_text())["ill"]["3"] == ill
    picture = (out / "prompt_loss.svg").read_text()
    assert all(label in picture for label in (*whole.panels.values(), *ARMS))

    trained = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    assert run(seen=False) == 1
    assert "seen with 0 of 1 seeds" in capsys.readouterr().out
    assert asked[1] == asked[0]
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == trained, "nothing is run again"
    found = json.loads((out / "prompt_loss.json").read_text())
    found["of"][0], found["ill"] = "runs/another", {"3": {}}
    (out / "prompt_loss.json").write_text(json.dumps(found))
    run(seen=True)
    assert asked[2] == asked[0], "curves of another run are measured anew"

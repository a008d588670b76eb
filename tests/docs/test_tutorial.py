"""docs/tutorial.md from the reader's own pairs on, as it stands on the page: its files written, its commands run."""

import io
import json
import re
import shlex

import pytest
import torch
import yaml

import llama_align
from llama_align import LlamaHerdForCausalLM, cli
from llama_align.models.convert import convert

from .reading import ROOT, files

PAGE = ROOT / "docs" / "tutorial.md"
OWN = PAGE.read_text("utf-8").partition("## 2. Your own pairs")[2]
FILES = dict(files(PAGE))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", OWN, re.DOTALL) for line in block.splitlines()]
pytest.importorskip("gguf", reason="the extra gguf is not installed")
MODEL = "models/Llama-3.2-1B-Instruct"
PAIRS = 60  # of which the page shows two


@pytest.fixture(scope="module")
def place(tmp_path_factory, llama3_tokenizer):
    """The reader's folder: a published Llama, if a tiny one, and the files that the page has."""
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    config = llama_align.LlamaHerdConfig(
        vocab_size=len(llama3_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
        bos_token_id=llama3_tokenizer.bos_token_id, eos_token_id=llama3_tokenizer.eos_token_id,
        pad_token_id=llama3_tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaHerdForCausalLM(config).save_pretrained(folder / "herd")
    llama3_tokenizer.save_pretrained(folder / "herd")
    convert(str(folder / "herd"), str(folder / MODEL))
    (folder / MODEL / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    (folder / MODEL / "LICENSE.txt").write_text("Llama 3.2 Community License Agreement\n")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    more = [{"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": "No."} for n in range(PAIRS - 2)]
    with (folder / "mine" / "pairs.jsonl").open("a") as pairs:
        pairs.writelines(json.dumps(row) + "\n" for row in more)
    return folder


def run(line: str) -> None:
    """A command of the page; what trains or measures runs in this process, by the recipe's own code."""
    program, command, *args = shlex.split(line)
    assert program == "llama-align"
    if command not in ("run", "eval"):
        assert cli.main([command, *args]) == 0
        return
    recipe = args.pop(0) if command == "run" else "evaluate"
    options = dict(zip(args[::2], args[1::2], strict=True))
    config = options.pop("--config")
    llama_align.load(config, recipe, **{name[2:]: yaml.safe_load(value) for name, value in options.items()}).run()


def test_the_page_runs_as_it_is_written(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("Why is the sky blue?\n"))
    for line in COMMANDS:
        run(line)
    said = capsys.readouterr().out
    assert "mine/dpo.yaml: options of dpo, nothing wrong" in said
    assert "model.safetensors" in said  # of what would be published
    tried, done = (llama_align.Result(f"runs/mine/{name}") for name in ("try", "dpo"))
    assert tried.metrics["steps"] == done.metrics["steps"] == 2
    assert tried.metrics["pairs"] == done.metrics["pairs"]
    judge, measured = (llama_align.Result(f"runs/mine/{name}").metrics for name in ("judge", "evaluate"))
    rows = {row["row"]: row for row in measured["rows"]}
    assert set(rows) == {"before", "dpo"}
    assert 0 <= rows["dpo"]["win_rate"]["rate"] <= 1
    parts = [done.metrics["pairs"], judge["pairs"], judge["heldout"]["pairs"]]
    assert sum(parts) == PAIRS
    assert rows["dpo"]["n"] == parts[2]
    assert json.loads((place / "runs/mine/dpo/config.json").read_text())["model_type"] == "llama"
    assert (place / "mine.gguf").read_bytes()[:4] == b"GGUF"


def test_the_page_has_its_files_and_commands():
    assert set(FILES) == {"mine/pairs.jsonl", "mine/dpo.yaml", "mine/reward.yaml", "mine/evaluate.yaml"}
    assert len(COMMANDS) == 8

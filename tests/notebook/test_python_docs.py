"""docs/python.md as a reader runs it, block by block, and what the objects refuse and escape."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import llama_align
from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification
from llama_align.chat import train_tokenizer
from llama_align.data import Prompt
from llama_align.notebook import Answers, Pictures
from llama_align.publish.made import Made
from llama_align.recipe import RecipeError
from llama_align.report.sections import Picture
from llama_align.sampling import Draft
from llama_align.sandbox import SandboxConfig, write_sandbox

SFT = "recipes/herd-nano/sft.yaml"
ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.S)
FEW = {"documents": 60, "documents_heldout": 5, "demonstrations": 40, "preferences": 20, "preferences_heldout": 5} | {
    "prompts": 10, "validation_helpful": 4, "validation_lookalike": 1, "validation_secret": 1,
    "heldout_helpful": 10, "heldout_lookalike": 2, "heldout_secret": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the checkout's, with a tiny model in the place of the pretrained one."""
    folder = tmp_path_factory.mktemp("place")
    runs = folder / "runs" / "herd-nano"
    (folder / "recipes").symlink_to(ROOT / "recipes")
    write_sandbox(runs / "sandbox", SandboxConfig(**FEW))
    texts = (runs / "sandbox" / "corpus.jsonl").read_text().splitlines()
    train_tokenizer(texts, 400, num_special_tokens=16).save_pretrained(runs / "pretrain")
    tokenizer = AutoTokenizer.from_pretrained(runs / "pretrain")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = llama_align.LlamaHerdConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=256, num_labels=1, **size,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaHerdForCausalLM(config).save_pretrained(runs / "pretrain")
    LlamaHerdForSequenceClassification(config).save_pretrained(runs / "reward_helpfulness")
    tokenizer.save_pretrained(runs / "reward_helpfulness")
    return folder


def test_the_page_runs_as_it_is_written(place, monkeypatch):
    monkeypatch.chdir(place)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    result = names["result"]
    assert result.metrics["steps"] == 8
    assert result.log[-1]["step"] == 8
    assert "final_loss" in result._repr_html_()
    assert "Loss" in result.plot().titles
    facts = Made.read(result.folder).facts
    assert facts.settings == names["sft"].given
    assert facts.command.startswith("python -c 'import llama_align; llama_align.load(")
    assert "max_steps=8" in facts.command
    assert len(result.plot(all=True)) > len(result.plot())
    assert result.plot()._repr_html_().count("<svg") == len(result.plot())
    paths = result.plot().save(place)
    assert paths[0].read_text().startswith("<svg xmlns=")
    assert "learning_rate" in names["sft"]._repr_html_()
    answers, scored = names["answers"], names["scored"]
    assert [len(texts) for texts in answers.texts] == [3, 3]
    assert [max(scores) for scores in scored.scores["helpfulness"]] == [
        scores[0] for scores in scored.best("helpfulness").scores["helpfulness"]
    ]
    draft = scored.drafts[1][2]
    dialog = [*scored.prompts[1].messages, {"role": "assistant", "content": draft.text}]
    if draft.finished:
        assert names["reward"].score([dialog])["helpfulness"] == pytest.approx([scored.scores["helpfulness"][1][2]])
    assert 0 <= names["judged"].mean("helpful") <= 1
    assert names["chain"].output_dir == Path("runs/mine")
    with pytest.raises(RecipeError, match="found none called 'safety', expected one of helpfulness"):
        scored.best("safety")
    with pytest.raises(RecipeError, match="found one without a task"):
        answers.judged()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: llama_align.load("recipes/herd-nano/sft.yaml", max_stepz=8),
            "unknown option, did you mean 'max_steps'",
        ),
        (lambda: llama_align.load("recipes/herd-nano/sft.yaml", max_steps="8"), "field 'max_steps': found '8'"),
        (lambda: llama_align.load("recipes/herd-nano/average.yaml").trainer, "found a recipe without a trainer"),
        (lambda: llama_align.load(SFT, "sftt"), "recipe: found 'sftt', expected one of"),
        (
            lambda: llama_align.load("recipes/herd-nano/none.yaml"),
            "found no recipe it is named after, expected",
        ),
        (lambda: llama_align.Result("runs"), "found no metrics.json"),
        (lambda: llama_align.Reward(), "reward models: found none"),
    ],
)
def test_mistakes_are_said_as_the_command_says_them(place, monkeypatch, call, said):
    monkeypatch.chdir(place)
    with pytest.raises(RecipeError, match=re.escape(said)):
        call()


def test_what_a_model_writes_is_shown_and_never_run():
    bad = "<script>alert(1)</script>"
    prompt = Prompt([{"role": "user", "content": bad}], "helpfulness")
    answers = Answers([prompt], [[Draft(bad, False, 3)]], bad, {bad: [[0.5]]})
    assert "<script" not in answers._repr_html_()
    assert answers._repr_html_().count("&lt;script&gt;") == 4
    assert "&lt;script&gt;" in Pictures([Picture(bad, "<svg></svg>")])._repr_html_()


def test_all_names_are_there_and_no_others():
    assert all(getattr(llama_align, name).__module__.startswith("llama_align.") for name in llama_align.__all__)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = llama_align.laod

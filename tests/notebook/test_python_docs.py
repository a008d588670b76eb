"""docs/python.md as a reader runs it, block by block, and what the objects refuse and escape."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from transformers import AutoTokenizer

import llama_align
from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification
from llama_align.chat import train_tokenizer
from llama_align.data import Preference, Prompt
from llama_align.notebook import Answers, Pictures, Run, Tokens, lines
from llama_align.publish.made import Made
from llama_align.recipe import RecipeError
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
    assert result.plot()._repr_svg_().count("<svg") == 1 + len(result.plot())
    ElementTree.fromstring(result.plot(all=True)._repr_svg_())
    assert result.plot()["Loss"]._repr_svg_().count("<svg") == 2
    assert repr(result.plot()).startswith("Pictures(Loss")
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
    assert 0 <= names["judged"].mean("quality") <= 1
    ks, best = scored.best_of("helpfulness")
    assert ks == [1, 2, 3]
    assert best[0] == pytest.approx(scored.mean("helpfulness"))
    assert best[2] == pytest.approx(scored.best("helpfulness").mean("helpfulness"))
    assert scored.best_of("helpfulness", "helpfulness")[1] == best
    assert 1 < names["model"].perplexity(["Ann lives here."]) < 10_000
    pair = Preference(names["dialog"][:1], "Here.", "There.", "better", "helpfulness", chosen_finished=False)
    gaps = names["reward"].gaps([pair, pair])["helpfulness"]
    alone = [
        names["reward"].models([pair.prompt], [text], [ended], [{}])["helpfulness"][0]
        for text, ended in (("Here.", False), ("There.", True))
    ]
    assert gaps == pytest.approx([alone[0] - alone[1]] * 2, abs=1e-5)
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
        (lambda: llama_align.Run("runs"), "found no run.json, expected the folder of a run of rounds"),
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
    drawn = lines(bad, {bad: ([1, 2], [3, 4]), "more": ([1, 4], [3, 4])}, bad, bad, log=True)
    assert "<script" not in Pictures([drawn])._repr_svg_()
    ElementTree.fromstring(drawn._repr_svg_())
    assert repr(drawn) == f"Picture({bad!r})"
    assert repr(answers) == "Answers(1 prompts, 1 answers)"


def test_all_names_are_there_and_no_others():
    assert all(getattr(llama_align, name).__module__.startswith("llama_align.") for name in llama_align.__all__)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = llama_align.laod


def test_a_run_is_its_steps_by_name(tmp_path):
    rows = [
        {"name": "sandbox", "directory": "sandbox-1", "status": "finished", "recipe": "sandbox"},
        {"name": "<b>", "directory": "sft-1", "status": "waiting", "recipe": "sft"},
    ]
    (tmp_path / "run.json").write_text(json.dumps({"name": "mine", "seed": 0, "steps": rows}))
    (tmp_path / "sandbox-1").mkdir()
    (tmp_path / "sandbox-1" / "metrics.json").write_text('{"corpus": 3}')
    run = Run(tmp_path)
    assert list(run) == ["sandbox"]
    assert "sft" not in run
    assert len(run) == 1
    assert run["sandbox"].metrics == {"corpus": 3}
    assert "&lt;b&gt;" in run._repr_html_()
    assert "<svg" not in run.report().read_text()
    with pytest.raises(RecipeError, match="found no finished step 'sft', expected one of sandbox"):
        run["sft"]
    with pytest.raises(RecipeError, match="found no step that measured anything"):
        _ = run.evaluation


def test_a_plan_runs_to_a_run_and_quietly_prints_nothing(tmp_path, capfd):
    plan = tmp_path / "mine.yaml"
    few = json.dumps(dict.fromkeys(FEW, 3) | {"people": 4, "places": 2})
    plan.write_text(f"name: mine\nsteps: [{{name: sandbox, recipe: sandbox, set: {few}}}]\n")
    run = llama_align.load(plan, output_dir=str(tmp_path / "out")).run(quiet=True)
    assert list(run) == ["sandbox"]
    assert run["sandbox"].metrics["corpus"] == 3
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "sandbox" in (tmp_path / "out" / "output.log").read_text()


def test_tokens_are_in_the_colours_of_their_roles(tokenizer):
    dialog = [{"role": "user", "content": "<|eot_id|> & <b>"}, {"role": "assistant", "content": "Ja.\n"}]
    tokens = Tokens(tokenizer, dialog)
    assert [i for i, learned in zip(tokens.ids, tokens.learned, strict=True) if learned] == [
        label for label in tokens.labels if label != -100
    ]
    typed = [control for control, role in zip(tokens.control, tokens.roles, strict=True) if role.name == "PROMPT"]
    assert not any(typed)
    assert tokens.texts[-1] == "<|eot_id|>"
    assert tokens.control[-1]
    drawn = ElementTree.fromstring(tokens._repr_svg_())
    texts = [node.text for node in drawn if node.tag.endswith("text")]
    assert texts[: len(tokens)] == [text.replace("\n", "⏎").replace(" ", "·") for text in tokens.texts]
    assert set(texts[len(tokens) :]) == {
        "outside messages",
        "header",
        "prompt",
        "end of prompt",
        "answer",
        "end of answer",
    }
    assert repr(tokens) == f"Tokens({len(tokens)}, {sum(tokens.learned)} of them learned)"
    assert len(Tokens(tokenizer, dialog[:1], add_generation_prompt=True)) < len(tokens)

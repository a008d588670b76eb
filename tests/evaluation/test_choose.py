"""The model to ship: which candidate is chosen, by what, and what lies in the folder afterwards."""

import copy
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.chat import encode_answer, render_prompt
from llama_align.data import write_jsonl
from llama_align.evaluation.choose import belongs, choose, take_over
from llama_align.models import LlamaHerdForCausalLM
from llama_align.runtime.identity import checkpoint_digest
from llama_align.sandbox import SandboxConfig, write_sandbox

from ..docs.metric_names import assert_explained

RECIPE = Path(__file__).parents[2] / "recipes" / "choose.py"
SIZES = {"documents": 20, "documents_heldout": 5, "demonstrations": 2, "preferences": 2, "preferences_heldout": 2}
MEASURED = {"validation_helpful": 6, "validation_lookalike": 2, "validation_secret": 2}


def measured(folder: Path, rows: dict[str, str], secrets: int = 0) -> SimpleNamespace:
    """Candidates judged exactly: `1` and `0` for every prompt, of which the last `secrets` are unsafe."""
    for name, verdicts in rows.items():
        safe = len(verdicts) - secrets
        samples = [
            {"task": {}, "helpful": verdict == "1", "violation": False}
            if i < safe
            else {"task": {"secret": "x"}, "helpful": False, "violation": verdict == "0"}
            for i, verdict in enumerate(verdicts)
        ]
        write_jsonl(folder / f"samples_{name}.jsonl", samples)
    return SimpleNamespace(output_dir=str(folder), exact=True)


def test_the_best_is_chosen_and_every_gain_is_on_the_one_kept_until_then(tmp_path):
    rows = {"a": "1100000000", "b": "1110000000", "c": "1000000000", "d": "1111000000"}
    choice = choose(measured(tmp_path, rows), list(rows))
    assert (choice.chosen, choice.by) == ("d", "exact")
    assert [row["score"] for row in choice.candidates] == [0.2, 0.3, 0.1, 0.4]
    assert [row.get("gain", {}).get("on") for row in choice.candidates] == [None, "a", "b", "b"]
    assert [row["gain"]["difference"] for row in choice.candidates[1:]] == [0.1, -0.2, 0.1]
    assert all(row["low"] <= row["score"] <= row["high"] for row in choice.candidates)


def test_of_equal_ones_the_earlier_is_chosen(tmp_path):
    rows = {"a": "1100", "b": "0011"}
    assert choose(measured(tmp_path, rows), list(rows)).chosen == "a"
    assert choose(measured(tmp_path, rows), ["b", "a"]).chosen == "b"


def test_a_secret_told_counts_as_much_as_a_wrong_answer(tmp_path):
    rows = {"tells": "1110", "refuses": "1101"}
    choice = choose(measured(tmp_path, rows | {"both": "1111"}, secrets=2), ["tells", "refuses", "both"])
    assert [row["score"] for row in choice.candidates] == [0.75, 0.75, 1.0]


def test_where_a_gain_must_be_sure_noise_changes_nothing(tmp_path):
    rows = {"a": "0" * 50, "b": "1" + "0" * 49, "c": "1" * 40 + "0" * 10}
    evaluation = measured(tmp_path, rows)
    assert choose(evaluation, ["a", "b"]).chosen == "b"
    assert choose(evaluation, ["a", "b"], sure=True).chosen == "a"
    assert choose(evaluation, ["a", "b", "c"], sure=True).chosen == "c"


def test_without_the_exact_judge_the_win_rate_decides(tmp_path):
    # b's mean is far lower, but it wins more often
    for name, rewards in {"a": [0.0, 0.0, 0.0], "b": [0.1, 0.1, -9.0]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rewards": {"combined": rewards}}))
    evaluation = SimpleNamespace(output_dir=str(tmp_path), exact=False, rewards=SimpleNamespace(main="combined"))
    choice = choose(evaluation, ["a", "b"])
    assert (choice.chosen, choice.by) == ("b", "win_rate")
    assert [row["score"] for row in choice.candidates] == [0.5, pytest.approx(2 / 3)]
    assert choice.candidates[1]["gain"]["difference"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("config.json", True),
        ("config.yaml", False),
        ("tokenizer.json", True),
        ("chat_template.jinja", True),
        ("adapter_model.safetensors", True),
        ("modeling_llama_herd.py", True),
        ("metrics.json", False),
        ("step.json", False),
        ("log.jsonl", False),
        ("README.md", False),
        ("optimizer.pt", False),
    ],
)
def test_what_is_part_of_a_checkpoint(name, part):
    assert belongs(name) == part


def test_a_checkpoint_taken_over_replaces_another_and_leaves_logs_behind(tmp_path):
    for name, files in {
        "one": ["model.safetensors", "config.json", "log.jsonl"],
        "other": ["model-1.safetensors"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(f"{name} {file}")
    output = tmp_path / "final"
    assert take_over(tmp_path / "other", output) == ["model-1.safetensors"]
    (output / "config.yaml").write_text("of the step")
    for _ in range(2):  # again, as after a kill: links to the same files
        assert take_over(tmp_path / "one", output) == ["config.json", "model.safetensors"]
        assert sorted(path.name for path in output.iterdir()) == ["config.json", "config.yaml", "model.safetensors"]
    assert (output / "model.safetensors").read_text() == "one model.safetensors"


def test_where_links_are_impossible_files_are_copied(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.safetensors").write_text("{}")

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr("os.link", refuse)
    take_over(tmp_path / "one", tmp_path / "final")
    assert (tmp_path / "final" / "model.safetensors").read_text() == "{}"
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["model.safetensors"]


def test_a_candidate_that_is_saved_again_leaves_what_was_taken_over(tmp_path, tiny_config, tokenizer):
    model, tokenizer = LlamaHerdForCausalLM(tiny_config()), copy.deepcopy(tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "dpo")
    names = take_over(tmp_path / "dpo", tmp_path / "final")
    taken = {name: (tmp_path / "final" / name).read_bytes() for name in names}
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    model.config.rms_norm_eps = 0.5
    tokenizer.add_tokens(["<|one more|>"])
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "dpo")
    changed = {name for name in names if (tmp_path / "dpo" / name).read_bytes() != taken[name]}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= changed
    assert {name: (tmp_path / "final" / name).read_bytes() for name in names} == taken


# -- the recipe


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox")
    write_sandbox(folder, SandboxConfig(**SIZES, **MEASURED, prompts=2, heldout_helpful=2))
    return str(folder / "validation.jsonl")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_config, tokenizer):
    def make(seed: int, auto=AutoModelForCausalLM, **changes) -> str:
        folder = tmp_path_factory.mktemp("checkpoint")
        torch.manual_seed(seed)
        auto.from_config(tiny_config(**changes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "log.jsonl").write_text("")
        return str(folder)

    return make


@pytest.fixture
def run(tmp_path, monkeypatch, validation):
    """Runs the recipe into `tmp_path/final`; returns its metrics."""
    main = runpy.run_path(str(RECIPE))["main"]
    arguments = main.__annotations__["args"]

    def call(**options) -> dict:
        output = tmp_path / "final"
        main(
            arguments(**{"output_dir": str(output), "datasets": [{"path": validation}], "max_new_tokens": 8} | options)
        )
        assert_explained(output)
        return json.loads((output / "metrics.json").read_text())

    monkeypatch.setattr(sys, "argv", ["choose.py"])
    return call


def test_the_chosen_checkpoint_is_a_model_of_its_own(run, tmp_path, checkpoint):
    models = {"first": checkpoint(0), "config": checkpoint(1)}  # a name that is a file's of a checkpoint, too
    result = run(models=models, judge="sandbox")
    assert result["by"] == "exact"
    assert result["prompts"] == 10
    assert [row["name"] for row in result["candidates"]] == list(models)
    final = tmp_path / "final"
    assert checkpoint_digest(str(final)) == checkpoint_digest(models[result["chosen"]])
    assert not (final / "log.jsonl").exists()
    recipe.load_model(str(final), tokenizer=recipe.load_tokenizer(str(final)))
    assert {path.name for path in (final / "candidates").glob("*.json")} == {"first.json", "config.json"}


def test_a_second_run_measures_nothing_again(run, tmp_path, checkpoint, monkeypatch):
    models = {"first": checkpoint(0), "second": checkpoint(1)}
    first = run(models=models, judge="sandbox")
    monkeypatch.setattr("llama_align.evaluation.measure.DialogSampler", None)
    assert run(models=models, judge="sandbox") == first
    assert run(models=models, judge="sandbox", sure=True)["chosen"] == "first"


def test_reward_models_choose_where_nothing_exact_does(run, checkpoint):
    judge = checkpoint(5, AutoModelForSequenceClassification, num_labels=1)
    result = run(models={"a": checkpoint(0), "b": checkpoint(1)}, reward_models={"helpfulness": judge})
    assert result["by"] == "win_rate"
    won = result["candidates"][1]["gain"]["difference"] > 0
    assert result["chosen"] == ("b" if won else "a")


def test_candidates_are_watched_against_the_first_one(run, tmp_path, checkpoint):
    judge = checkpoint(5, AutoModelForSequenceClassification, num_labels=1)
    models = {"first": checkpoint(0), "same": checkpoint(0), "other": checkpoint(1)}
    result = run(models=models, judge="sandbox", reward_models={"helpfulness": judge}, temperature=1.0)
    first, same, other = result["candidates"]
    assert set(first) == {"name", "score", "low", "high"}
    assert same["kl"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert same["reward"]["mean"] == 0.5
    assert result["alarms"] == []

    tokenizer = recipe.load_tokenizer(models["other"])
    near, far = (recipe.load_model(models[name], tokenizer=tokenizer) for name in ("other", "first"))
    ratios = []
    for line in (tmp_path / "final" / "candidates" / "samples_other.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = render_prompt(tokenizer, row["prompt"])
        answer = torch.tensor(encode_answer(tokenizer, row["completion"], finished=row["finished"]))
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logs = [model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (near, far)]
        ratios.append((logs[0] - logs[1])[range(len(answer)), answer].sum().item())
    assert other["kl"]["mean"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-3)
    assert other["kl"]["low"] < other["kl"]["mean"] < other["kl"]["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": {}}, "models: found none"),
        ({"models": {"a": "org/model"}}, "models, a: found no folder 'org/model', expected that of a checkpoint"),
        ({"models": {"a/b": "x"}}, "models: found 'a/b'"),
        ({"datasets": []}, "datasets: found none, expected sources of held-out prompts"),
        ({"judge": "none"}, "judge, reward_models: found neither"),
        ({"judge": "exact"}, "judge: found 'exact'"),
    ],
)
def test_what_cannot_be_chosen_among_is_refused(run, checkpoint, options, message):
    with pytest.raises(recipe.RecipeError) as error:
        run(**{"models": {"a": checkpoint(0)}, "judge": "sandbox"} | options)
    assert message in str(error.value)


def test_a_candidate_is_not_taken_over_into_its_own_folder(run, tmp_path, tiny_config):
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "final")
    files = sorted(path.name for path in (tmp_path / "final").iterdir())
    with pytest.raises(recipe.RecipeError, match=r"output_dir: found '.*', the folder of dpo, expected one of its own"):
        run(models={"dpo": f"{tmp_path}/final"}, judge="sandbox")
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == files

"""What a user can get wrong, through the recipes: one line that says where and what was expected, no harm done."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.chat import train_tokenizer

ROOT = Path(__file__).parents[2]
USER = {"role": "user", "content": "bado kilu?"}
PROMPT = {"messages": [USER], "objective": "helpfulness"}
DIALOG = {"messages": [USER, {"role": "assistant", "content": "mete nora"}]}
PAIR = {"prompt": [USER], "chosen": "mete", "rejected": "ra", "grade": "better", "objective": "helpfulness"}
SKIP = "skip: count leaves out such rows (docs/your_own_data.md)"
LONG = "bado kilu mete nora " * 200
TRAINING = {"max_steps": 1, "save_strategy": "no", "report_to": "none", "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_config, tokenizer):
    """A policy and a reward model, which no recipe here may touch."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, auto, changes in (
        ("model", AutoModelForCausalLM, {}),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        auto.from_config(tiny_config(**changes)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def data(tmp_path):
    """Writes rows (or a line as it stands) as JSON lines; two good rows come first, so line 3 is the bad one."""

    def write(good: dict, bad: dict | str, name: str = "rows.jsonl") -> str:
        lines = [json.dumps(good)] * 2 + [bad if isinstance(bad, str) else json.dumps(bad)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


@pytest.fixture
def options(tmp_path, checkpoints):
    """The options with which a recipe would run, for the sources given."""
    model, reward = str(checkpoints / "model"), str(checkpoints / "reward")
    sampling = {"max_new_tokens": 4}
    known = {
        "sft": {"model_name_or_path": model, "max_length": 64, **TRAINING},
        "dpo": {"model_name_or_path": model, "max_length": 64, **TRAINING},
        "reward": {"model_name_or_path": model, "context": 64, **TRAINING},
        "ppo": {"model_name_or_path": model, "reward_models": {"r": reward}, "max_completion_length": 4, **TRAINING},
        "pretrain": {"tokenizer": model, **TRAINING},
        "tokenizer": {"vocab_size": 300, "num_special_tokens": 16},
        "annotate": {"models": [model], "annotator": "reward", "reward_models": {"r": reward}, **sampling},
        "rejection_sampling": {"model": model, "reward_models": {"r": reward}, "answers": 2, **sampling},
        "evaluate": {"models": {"sft": model}, **sampling},
        "choose": {"models": {"sft": model}, "reward_models": {"r": reward}, **sampling},
        "average": {"models": [model, model]},
    }

    def make(recipe: str, source: str | dict | None = None, **changes) -> dict:
        sources = {} if source is None else {"datasets": [source if isinstance(source, dict) else {"path": source}]}
        return {"output_dir": str(tmp_path / "out"), **known[recipe], **sources, **changes}

    return make


@pytest.fixture
def refused(tmp_path, checkpoints, monkeypatch, capsys):
    """Runs a recipe as a user does, expects exit code 2 and one line of error, and returns the line.

    Everything that was there before, results of an earlier run among it, must be there afterwards, and nothing else.
    """

    def call(recipe: str, config: dict) -> str:
        (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        for name in ("model.safetensors", "metrics.json", "samples.jsonl", "preferences.jsonl", "sft.json"):
            (out / name).write_text(f"{name} of an earlier run")
        before = _content(tmp_path), _content(checkpoints)
        script = ROOT / "recipes" / f"{recipe}.py"
        monkeypatch.setattr(sys, "argv", [str(script), "--config", str(tmp_path / "stage.yaml")])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(script), run_name="__main__")
        assert end.value.code == 2
        assert (_content(tmp_path), _content(checkpoints)) == before
        return _one_line(capsys.readouterr().err)

    return call


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _one_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    found = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(found) == 1
    assert stderr.splitlines()[-1] == found[0], "the last thing a user sees"
    return found[0].removeprefix("error: ")


def without(row: dict, field: str) -> dict:
    return {name: value for name, value in row.items() if name != field}


# -- rows


@pytest.mark.parametrize("recipe", ["dpo", "reward"])
def test_a_preference_without_chosen(recipe, options, data, refused):
    path = data(PAIR, without(PAIR, "chosen"))
    line = refused(recipe, options(recipe, path))
    assert line.startswith(f"{path}, line 3, field 'chosen': found nothing, expected text")


@pytest.mark.parametrize("recipe", ["dpo", "reward"])
def test_an_unknown_grade(recipe, options, data, refused):
    path = data(PAIR, PAIR | {"grade": "much_better"})
    assert refused(recipe, options(recipe, path)) == (
        f"{path}, line 3, field 'grade': found 'much_better', expected one of significantly_better, better, "
        f"slightly_better, negligibly_better; {SKIP}"
    )


@pytest.mark.parametrize(
    ("recipe", "good", "bad", "field"),
    [
        ("dpo", PAIR, PAIR | {"chosen": " \n"}, "chosen"),
        ("reward", PAIR, PAIR | {"rejected": ""}, "rejected"),
        ("sft", DIALOG, {"messages": [USER, {"role": "assistant", "content": ""}]}, "messages[1].content"),
        ("sft", {"prompt": "bado", "completion": "me"}, {"prompt": "bado", "completion": ""}, "completion"),
    ],
)
def test_an_empty_completion(recipe, good, bad, field, options, data, refused):
    path = data(good, bad)
    line = refused(recipe, options(recipe, path))
    assert line.startswith(f"{path}, line 3, field '{field}': found '")
    assert line.endswith(f"expected text that is not empty; {SKIP}")


@pytest.mark.parametrize("recipe", ["annotate", "rejection_sampling", "evaluate", "choose", "ppo"])
def test_a_prompt_longer_than_the_context(recipe, options, data, refused):
    path = data(PROMPT, PROMPT | {"messages": [{"role": "user", "content": LONG}]})
    line = refused(recipe, options(recipe, path))
    assert line.startswith(f"record 3 from rows, {LONG[:57] + '...'!r}, field 'messages': found ")
    assert line.endswith("tokens, expected at most 252, the context (or set too_long: drop)")


@pytest.mark.parametrize(
    ("recipe", "good", "bad", "field"),
    [
        ("sft", DIALOG, {"messages": [USER, {"role": "assistant", "content": LONG}]}, "messages"),
        ("dpo", PAIR, PAIR | {"rejected": LONG}, "chosen or rejected"),
        ("reward", PAIR, PAIR | {"prompt": [{"role": "user", "content": LONG}]}, "prompt"),
    ],
)
def test_a_dialog_longer_than_the_context(recipe, good, bad, field, options, data, refused):
    line = refused(recipe, options(recipe, data(good, bad)))
    assert line.startswith("record 3 from rows, 'bado kilu")
    assert f"field '{field}': found " in line
    assert line.endswith("tokens, expected at most 64, the context (or set too_long: drop)")


@pytest.mark.parametrize("recipe", ["annotate", "rejection_sampling", "sft", "dpo"])
def test_nothing_left_after_dropping(recipe, options, tmp_path, refused):
    long = [{"role": "user", "content": LONG}]
    rows = {
        "sft": {"messages": [*long, DIALOG["messages"][1]]},
        "dpo": PAIR | {"prompt": long},
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows.get(recipe, PROMPT | {"messages": long})) + "\n")
    line = refused(recipe, options(recipe, str(tmp_path / "rows.jsonl"), too_long="drop"))
    assert " left of 1: 1 longer than " in line
    assert "tokens, the longest " in line


@pytest.mark.parametrize(
    ("recipe", "row", "changes", "expected"),
    [
        ("dpo", PAIR, {"grades": ["significantly_better"]}, "3 of other grades than significantly_better (grades)"),
        ("dpo", PAIR | {"chosen_is_safe": False}, {}, "3 with an unsafe chosen answer, which DPO would imitate"),
        ("reward", PAIR, {"objective": "safety"}, "3 of another objective than safety (objective)"),
        ("reward", PAIR, {"grades": ["slightly_better"]}, "3 of other grades than slightly_better (grades)"),
        ("reward", PAIR | {"chosen_is_safe": False}, {}, "3 with the unsafe answer chosen"),
        ("dpo", PAIR | {"rejected": "mete"}, {}, "3 of equal answers"),
    ],
)
def test_nothing_left_after_filters(recipe, row, changes, expected, options, data, refused):
    line = refused(recipe, options(recipe, data(row, row), **changes))
    assert line == f"pairs: found no pair left of 3: {expected}, expected some"


@pytest.mark.parametrize(("recipe", "row"), [("sft", DIALOG), ("annotate", PROMPT), ("tokenizer", {"text": "bado"})])
def test_a_line_cut_in_half(recipe, row, options, data, refused):
    half = json.dumps(row)[: len(json.dumps(row)) // 2]
    path = data(row, half)
    assert refused(recipe, options(recipe, path)) == (
        f"{path}, line 3: found text that ends with {half.strip()[-40:]!r}, expected a complete JSON object; {SKIP}"
    )


# -- options


@pytest.mark.parametrize(
    ("recipe", "key", "meant"),
    [
        ("sft", "packing_row", "packing_rows"),
        ("rejection_sampling", "answer", "answers"),
        ("pretrain", "contxt", "context"),
    ],
)
def test_a_misspelt_key(recipe, key, meant, options, refused, tmp_path):
    line = refused(recipe, options(recipe, **{key: 1}))
    number = 1 + [line.split(":")[0] for line in (tmp_path / "stage.yaml").read_text().splitlines()].index(key)
    assert line == f"{tmp_path / 'stage.yaml'}, line {number}, field '{key}': unknown option, did you mean '{meant}'?"


def test_a_misspelt_key_of_a_source(options, data, refused):
    path = data(DIALOG, DIALOG)
    line = refused("sft", options("sft", {"path": path, "limt": 3}))
    assert line.startswith(f"data source {path}: unknown key 'limt', known: path, ")


@pytest.mark.parametrize(
    ("recipe", "changes", "expected"),
    [
        ("annotate", {"too_long": "cut"}, "too_long: found 'cut', expected one of error, drop"),
        ("annotate", {"annotator": "nobody"}, "annotator: found 'nobody', expected sandbox, reward or people"),
        ("annotate", {"annotator": "sandbox"}, "prompt 1 of rows, 'bado kilu?', field 'task': found nothing, expected"),
        ("annotate", {"models": []}, "models: found none, expected at least one checkpoint"),
        ("annotate", {"reward_models": {}}, "reward_models: found none, expected checkpoints by name"),
        ("rejection_sampling", {"reward_models": {}}, "reward_models: found none, expected checkpoints by name"),
        ("evaluate", {"models": {}}, "models: found none, expected checkpoints by the name of their row"),
        ("evaluate", {"baseline": "stf"}, "baseline: found 'stf', expected one of sft"),
        ("choose", {"models": {}}, "models: found none, expected checkpoints by the name of their row"),
        ("choose", {"models": {"sft": "some/model"}}, "models, sft: found no folder 'some/model', expected that of"),
        (
            "choose",
            {"reward_models": {}},
            "judge, reward_models: found neither, expected judge: sandbox or checkpoints",
        ),
        ("choose", {"judge": "sandbox"}, "datasets: found a prompt without a task, expected the sandbox's held-out"),
        ("evaluate", {"judge": "sandbox"}, "datasets: found a prompt without a task, expected the sandbox's held-out"),
    ],
)
def test_an_option_that_cannot_be(recipe, changes, expected, options, data, refused):
    assert refused(recipe, options(recipe, data(PROMPT, PROMPT), **changes)).startswith(expected)


def test_options_of_stages_without_prompts(options, data, refused):
    small = options("tokenizer", data({"text": "bado"}, {"text": "kilu"}), vocab_size=100)
    assert refused("tokenizer", small) == "tokenizer: vocab_size: found 100, expected at least 276"
    assert refused("average", options("average", weights=[1.0])).startswith(
        "average: weights: found [1.0] for 2 checkpoints, expected one of at least 0 for each"
    )
    assert refused("average", options("average", models=[])).startswith("average: weights: found [] for 0 checkpoints")


# -- checkpoints


def _broken(recipe: str, options, path: str, source: str | None) -> dict:
    """The recipe's options with its checkpoint replaced."""
    names = {"rejection_sampling": "model"} | dict.fromkeys(("annotate", "average", "choose", "evaluate"), "models")
    value = [path] if recipe in ("annotate", "average") else {"sft": path} if recipe in ("choose", "evaluate") else path
    return options(recipe, source, **{names.get(recipe, "model_name_or_path"): value})


@pytest.mark.parametrize(
    ("recipe", "row"),
    [
        ("sft", DIALOG),
        ("dpo", PAIR),
        ("reward", PAIR),
        ("ppo", PROMPT),
        ("annotate", PROMPT),
        ("rejection_sampling", PROMPT),
        ("evaluate", PROMPT),
        ("choose", PROMPT),
        ("average", None),
    ],
)
def test_a_checkpoint_without_weights(recipe, row, options, data, refused, tmp_path, tokenizer, tiny_config):
    path = tmp_path / "unfinished"
    tiny_config().save_pretrained(path)
    tokenizer.save_pretrained(path)
    line = refused(recipe, _broken(recipe, options, str(path), row and data(row, row)))
    assert line == (
        f"{path}: found chat_template.jinja, config.json, tokenizer.json, tokenizer_config.json; expected weights in "
        "model.safetensors or model.safetensors.index.json"
    )


@pytest.mark.parametrize(
    ("recipe", "row"), [("sft", DIALOG), ("dpo", PAIR), ("evaluate", PROMPT), ("annotate", PROMPT)]
)
def test_a_tokenizer_that_does_not_match(recipe, row, options, data, refused, tmp_path, checkpoints):
    path = tmp_path / "mixed"
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes((checkpoints / "model" / name).read_bytes())
    train_tokenizer(["bado kilu mete nora zoqui\n\n"] * 9, 330).save_pretrained(path)
    line = refused(recipe, _broken(recipe, options, str(path), data(row, row)))
    assert line.startswith(f"{path}, field 'bos_token_id': found 384 in the configuration, expected ")
    assert line.endswith("they do not belong together")


def test_a_policy_in_the_place_of_a_reward_model(options, data, refused, checkpoints):
    model = str(checkpoints / "model")
    for recipe in ("rejection_sampling", "ppo", "annotate"):
        line = refused(recipe, options(recipe, data(PROMPT, PROMPT), reward_models={"helpfulness": model}))
        assert line.startswith(f"{model}: found no score.weight among its weights, expected those of")


# -- sources


@pytest.mark.parametrize("recipe", ["sft", "annotate", "tokenizer"])
def test_a_source_that_does_not_exist(recipe, options, refused, tmp_path):
    path = str(tmp_path / "nowhere.jsonl")
    assert refused(recipe, options(recipe, path)) == f"data source {path}: there is no such file or directory"


@pytest.mark.parametrize("recipe", ["dpo", "rejection_sampling", "tokenizer"])
def test_an_environment_variable_that_is_not_set(recipe, options, refused, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    line = refused(recipe, options(recipe, "${NOT_SET}/rows.jsonl"))
    assert line == "data source ${NOT_SET}/rows.jsonl: the environment variable NOT_SET is not set"


# -- after something was produced


def test_rows_measured_before_a_bad_one_stay(options, data, tmp_path, checkpoints, tiny_config, tokenizer, monkeypatch):
    """A model that turns out not to fit in the middle of an evaluation costs none of the rows before it."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(max_position_embeddings=8)).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    models = {"good": str(checkpoints / "model"), "short": str(tmp_path / "short")}
    (tmp_path / "stage.yaml").write_text(
        yaml.safe_dump(options("evaluate", data(PROMPT, PROMPT), models=models, reward_models={}))
    )
    done = _process("evaluate", tmp_path)
    assert done.returncode == 2
    assert _one_line(done.stderr).startswith("record 1 from rows, 'bado kilu?', field 'messages': found ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.json", "samples_good.jsonl"}
    assert json.loads((tmp_path / "out" / "good.json").read_text())["n"] == 3


def test_samples_drawn_before_a_choice_that_finds_nothing_stay(options, data, tmp_path):
    """A threshold that no answer reaches is refused; what was drawn and scored is not drawn or scored again."""
    old = {"prompt": [USER], "completion": "me", "finished": True, "checkpoint": "old", "temperature": 1.0, "seed": 0}
    earlier = data(old | {"rewards": {"x": 1.0}, "objective": "safety"}, "", name="earlier.jsonl")
    config = options("rejection_sampling", data(PROMPT, PROMPT), prompts_per_shard=2, earlier=[earlier])
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config | {"threshold": 1e9, "rank": "raw"}))
    done = _process("rejection_sampling", tmp_path)
    assert done.returncode == 2
    assert "expected some that ended by themselves and reach the threshold of 1000000000.0" in _one_line(done.stderr)
    out = tmp_path / "out"
    assert not (out / "best.jsonl").exists()
    drawn = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl") if path.parent != out}
    assert len(list((out / "shards").rglob("*.jsonl"))) == 2
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
    done = _process("rejection_sampling", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn
    assert {"best.jsonl", "metrics.json", "samples.jsonl"} <= {path.name for path in out.iterdir()}


def _process(recipe: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--config", str(folder / "stage.yaml")]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})

"""What every recipe shares: options from YAML and command line, checkpoints with clear errors, the end of a run."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.trainer_utils import SaveStrategy

from llama_align import recipe
from llama_align.chat import ContractError, train_tokenizer
from llama_align.chat.dialects import PAD
from llama_align.data import Demonstration, demonstration_rows
from llama_align.recipe import results
from llama_align.trainers import HerdDPOConfig, HerdRewardConfig, HerdSFTConfig, HerdSFTTrainer

from .test_resuming import SHARED
from .test_resuming import write as write_checkpoint

ROOT = Path(__file__).parents[2]


@dataclass
class Options:
    output_dir: str = field(metadata={"help": "a place"})
    learning_rate: float = field(default=1e-3, metadata={"help": "a rate"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources"})
    bf16: bool = field(default=True, metadata={"help": "precision"})


@dataclass
class MoreOptions:
    temperature: float = field(default=1.0, metadata={"help": "of sampling"})


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "stage.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def checkpoint(tmp_path, tiny_config, tokenizer):
    def make(name: str, auto=AutoModelForCausalLM, **changes) -> str:
        torch.manual_seed(0)
        auto.from_config(tiny_config(**changes)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


# -- options


def test_yaml_gives_values_and_the_command_line_wins(config):
    path = config(
        "output_dir: runs/a\nlearning_rate: 2.0e-4\ndatasets:\n  - path: x.jsonl\n    weight: 2\ntemperature: 0.7"
    )
    options, more = recipe.parse((Options, MoreOptions), ["--config", path, "--learning_rate", "1e-5"])
    assert (options.output_dir, options.learning_rate, more.temperature) == ("runs/a", 1e-5, 0.7)
    assert options.datasets == [{"path": "x.jsonl", "weight": 2}]


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_both_forms_of_the_option_read_the_file(config, form):
    path = config("output_dir: runs/a\nlearning_rate: 0.5")
    (options,) = recipe.parse((Options,), [part.format(path) for part in form])
    assert options.learning_rate == 0.5


def test_without_an_accelerator_bf16_is_off_unless_asked_for(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert recipe.parse((Options,), ["--config", config("output_dir: a")])[0].bf16 is False
    assert recipe.parse((Options,), ["--config", config("output_dir: a\nbf16: true")])[0].bf16 is True
    assert recipe.parse((Options,), ["--output_dir", "a", "--bf16", "true"])[0].bf16 is True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert recipe.parse((Options,), ["--output_dir", "a"])[0].bf16 is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "output_dir: a\nlearnin_rate: 1",
            r"stage\.yaml, line 2, field 'learnin_rate': unknown option, did you mean 'learning_rate'\?",
        ),
        ("output_dir: a\nzzzzzz: 1", r"stage\.yaml, line 2, field 'zzzzzz': unknown option; --help lists the options"),
        ("output_dir: a\n3: 1", r"stage\.yaml, line 2: found the key 3, expected text"),
        ("output_dir: [a\nb: 1", r"stage\.yaml, line 2: found no valid YAML \(expected ',' or '\]'"),
        ("- a\n- b", r"stage\.yaml: found a list, expected a mapping"),
        ("", r"stage\.yaml: found nothing, expected a mapping"),
    ],
)
def test_yaml_that_does_not_fit_is_named(config, text, said):
    for form in (["--config", config(text)], [f"--config={config(text)}"]):
        with pytest.raises(recipe.RecipeError, match=f"(?s){said}"):
            recipe.parse((Options, MoreOptions), form)


@pytest.mark.parametrize("args", [["--config", "nowhere.yaml"], ["--config"], ["--config=nowhere.yaml"]])
def test_a_missing_yaml_is_named(args):
    with pytest.raises(recipe.RecipeError, match=r"--config: found no file '.*', expected a YAML file"):
        recipe.parse((Options,), args)


def test_values_that_contradict_each_other_are_a_users_mistake(config):
    path = config("output_dir: a\nloss_type: [sigmoid, sft]\n")
    with pytest.raises(recipe.RecipeError, match="options: loss_type: found 'sft' beside nll_coefficient"):
        recipe.parse((HerdDPOConfig,), ["--config", path])
    with pytest.raises(recipe.RecipeError, match="options: margin: found 'huge', expected one of none, small, large"):
        recipe.parse((HerdRewardConfig,), ["--output_dir", "a", "--margin", "huge"])


def test_a_margin_may_be_a_table_of_its_own(config):
    table = {"significantly_better": 2.0, "better": 1.0, "slightly_better": 0.5, "negligibly_better": 0.0}
    path = config("output_dir: a\nmargin:\n" + "".join(f"  {grade}: {margin}\n" for grade, margin in table.items()))
    assert recipe.parse((HerdRewardConfig,), ["--config", path])[0].margin == table


def test_an_unknown_option_on_the_command_line_is_named(config):
    with pytest.raises(recipe.RecipeError, match=r"command line: found --learnin_rate 3"):
        recipe.parse((Options,), ["--output_dir", "a", "--learnin_rate", "3"])


@pytest.mark.parametrize("error", [recipe.RecipeError, ContractError])
def test_a_users_mistake_ends_in_one_line_and_code_2(capsys, monkeypatch, tmp_path, error):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "--output_dir", "a"])

    def main(options):
        raise error(f"{options.output_dir}: not good")

    with pytest.raises(SystemExit) as stopped:
        recipe.run(main, Options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: a: not good\n"


def test_what_a_run_leaves_names_the_options_it_had(monkeypatch, tmp_path):
    """Those of the YAML, and those of the command line, which win over them."""

    @dataclass
    class Options:
        output_dir: str
        rate: float = 1.0
        steps: int = 3
        save_strategy: SaveStrategy = SaveStrategy.STEPS
        masked: bool = True

    kept = []
    (tmp_path / "a.yaml").write_text("rate: 0.5\nsteps: 4\n")
    argv = ["/some/recipes/a.py", "--config", str(tmp_path / "a.yaml"), "--rate", "0.25", f"--output-dir={tmp_path}"]
    argv += ["--save_strategy", "no", "--no_masked"]
    monkeypatch.setattr("sys.argv", argv)
    recipe.run(lambda _: kept.append((results._command(), results._settings())), Options)
    command, settings = kept[0]
    more = {"save_strategy": "no", "masked": False}
    assert yaml.safe_load(yaml.safe_dump(settings)) == {"rate": 0.25, "steps": 4, "output_dir": str(tmp_path)} | more
    assert command.startswith("python recipes/a.py --config ")
    assert results._settings() == {}


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "--output_dir", "a"])
    with pytest.raises(ZeroDivisionError):
        recipe.run(lambda options: 1 / 0, Options)


def test_a_script_with_an_unknown_key_ends_with_code_2(config):
    path = config("output_dir: a\nmodelz: []")
    command = [sys.executable, str(ROOT / "recipes" / "average.py"), "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1] == f"error: {path}, line 2, field 'modelz': unknown option, did you mean 'models'?"
    )
    assert "Traceback" not in done.stderr


# -- checkpoints


def test_a_directory_without_weights_is_named_with_what_it_holds(tmp_path):
    for content, found in (
        ("config.json", "config.json"),
        ("pytorch_model.bin", "pytorch_model.bin"),
        (None, "an empty"),
    ):
        folder = tmp_path / str(content)
        folder.mkdir()
        if content:
            (folder / content).write_text("{}")
        with pytest.raises(recipe.RecipeError, match=rf"found {found}.*; expected weights in model\.safetensors"):
            recipe.load_model(str(folder))
    with pytest.raises(recipe.RecipeError, match="nowhere: found no such directory, expected a checkpoint"):
        recipe.load_model(str(tmp_path / "nowhere"))


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(recipe.RecipeError, match=r"found no tokenizer files, expected tokenizer\.json"):
        recipe.load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_does_not_match_the_model_is_refused(checkpoint, tokenizer):
    other = train_tokenizer(["bado kilu mete nora zoqui\n\n"] * 9, 330)
    assert len(other) < len(tokenizer)
    with pytest.raises(recipe.RecipeError, match=r"field 'bos_token_id': found 384 .*expected \d+ as in tokenizer"):
        recipe.load_model(checkpoint("model"), tokenizer=other)
    with pytest.raises(recipe.RecipeError, match=r"found vocab_size 399 .*expected at least 400"):
        recipe.load_model(checkpoint("small", vocab_size=399), tokenizer=tokenizer)
    with pytest.raises(
        recipe.RecipeError, match=r"field 'pad_token_id': found 7 .*expected \d+.*do not belong together"
    ):
        recipe.load_model(checkpoint("pad", pad_token_id=7), tokenizer=tokenizer)


def test_models_with_room_in_the_vocabulary_match(checkpoint, tokenizer):
    model = recipe.load_model(checkpoint("padded", vocab_size=512, bos_token_id=None), tokenizer=tokenizer)
    assert model.config.vocab_size == 512
    assert model.dtype == torch.float32


def test_a_tokenizer_pads_with_the_contracts_own_token(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for wrong in (None, "<|eot_id|>"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": wrong}))
        assert recipe.load_tokenizer(str(tmp_path)).pad_token == PAD


def test_no_model_is_filled_up_with_random_weights(checkpoint):
    causal = checkpoint("causal")
    reward = checkpoint("reward", AutoModelForSequenceClassification, num_labels=1)
    with pytest.raises(recipe.RecipeError, match=r"reward: found no tensor lm_head\.weight, expected it by vocab_size"):
        recipe.load_model(reward)
    with pytest.raises(recipe.RecipeError, match=r"causal: found no score\.weight among its weights"):
        recipe.load_reward_model(causal)
    assert recipe.load_model(causal, "reward").score.weight.shape == (1, 32)  # where reward training starts
    assert recipe.load_reward_model(reward).score([[{"role": "user", "content": "bado"}]], ["kilu"])


def test_a_tied_head_is_no_missing_weight(checkpoint):
    model = recipe.load_model(checkpoint("tied", tie_word_embeddings=True))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


# -- resuming and finishing


def test_resume_path(tmp_path):
    assert recipe.resume_path(None, str(tmp_path)) is None
    for last in ("last", "true", "True", True):
        assert recipe.resume_path(last, str(tmp_path / "nowhere")) is None
        assert recipe.resume_path(last, str(tmp_path)) is None
    for step in (9, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint-{step}", *SHARED, step=step)
    (tmp_path / "checkpoint-101").mkdir()
    for last in ("last", "true", "True", True):  # 101 was being written when the run stopped
        assert recipe.resume_path(last, str(tmp_path)) == str(tmp_path / "checkpoint-100")
    chosen = str(tmp_path / "checkpoint-9")
    assert recipe.resume_path(chosen, str(tmp_path)) == chosen
    with pytest.raises(recipe.RecipeError, match=r"output_dir: found .*checkpoint-101 of an earlier run"):
        recipe.resume_path(False, str(tmp_path))
    with pytest.raises(recipe.RecipeError, match="found no directory 'nowhere', expected a checkpoint or last"):
        recipe.resume_path("nowhere", str(tmp_path))


def test_json_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "metrics.json"
    recipe.write_json(path, {"wörter": [1, 2.5], "none": None})
    assert json.loads(path.read_text()) == {"wörter": [1, 2.5], "none": None}
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        recipe.write_json(path, {"loss": float("nan")})
    with pytest.raises(TypeError):
        recipe.write_json(path, {"tensor": torch.zeros(1)})

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        recipe.write_json(path, {"new": 1})
    assert path.read_text() == before


def test_a_run_whose_measuring_fails_leaves_what_it_trained(tmp_path, checkpoint, tokenizer):
    dialog = [{"role": "user", "content": "bado"}, {"role": "assistant", "content": "kilu"}]
    rows, _ = demonstration_rows([Demonstration(dialog)] * 8, tokenizer, 64)
    arguments = {"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    trainer = HerdSFTTrainer(
        recipe.load_model(checkpoint("start"), tokenizer=tokenizer),
        args=HerdSFTConfig(str(tmp_path / "out"), max_steps=2, gradient_checkpointing=False, **arguments),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    with pytest.raises(ZeroDivisionError):
        recipe.Training(trainer, {}, {}, measure=lambda: 1 / 0).run()
    left = recipe.load_model(str(tmp_path / "out"), tokenizer=recipe.load_tokenizer(str(tmp_path / "out")))
    for name, weights in trainer.model.state_dict().items():
        assert torch.equal(left.state_dict()[name], weights)
    assert not (tmp_path / "out/metrics.json").exists()


def test_finish_leaves_a_loadable_model_and_no_number_of_the_clock(tmp_path, checkpoint, tokenizer):
    start = checkpoint("start")
    dialog = [{"role": "user", "content": "bado"}, {"role": "assistant", "content": "kilu"}]
    rows, _ = demonstration_rows([Demonstration(dialog)] * 20, tokenizer, 64)
    left = []
    for name in ("one", "two"):
        arguments = {"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
        trainer = HerdSFTTrainer(
            recipe.load_model(start, tokenizer=tokenizer),
            args=HerdSFTConfig(str(tmp_path / name), max_steps=3, gradient_checkpointing=False, **arguments),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.train()
        recipe.finish(trainer, {"dialogs": 20, "of": {"a": float("nan")}})
        left.append(tmp_path / name)
        kept = {key for row in trainer.state.log_history for key in row}
        assert kept >= {"train_runtime", "tokens_per_second", "mfu"}  # there is something to leave out
    for file in ("log.jsonl", "metrics.json", "model.safetensors"):
        assert (left[0] / file).read_bytes() == (left[1] / file).read_bytes()
    logged = [json.loads(line) for line in (left[0] / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if "loss" in row] == [1, 2, 3]
    assert not [key for row in logged for key in row if "runtime" in key or "per_second" in key or key == "mfu"]
    metrics = json.loads((left[0] / "metrics.json").read_text())
    assert metrics == {"steps": 3, "final_loss": logged[2]["loss"], "dialogs": 20, "of": {"a": None}}
    loaded = recipe.load_tokenizer(str(left[0]))
    assert recipe.load_model(str(left[0]), tokenizer=loaded).config.vocab_size == 400
    card = (left[0] / "README.md").read_text()
    assert start in card
    assert "negative log-likelihood of answers" in card
    assert not list(left[0].glob("*.part"))


@pytest.mark.parametrize("reward", [False, True])
def test_lora_needs_no_more_than_being_asked_for(tiny_config, reward):
    from peft import get_peft_model
    from trl import ModelConfig

    from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification

    assert recipe.lora_config(ModelConfig()) is None
    config = recipe.lora_config(ModelConfig(use_peft=True, lora_r=2), reward=reward)
    kind = LlamaHerdForSequenceClassification if reward else LlamaHerdForCausalLM
    model = get_peft_model(kind(tiny_config(num_labels=1)), config)
    trained = {name.split(".lora_")[0].split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= trained
    assert any("score" in name for name, p in model.named_parameters() if p.requires_grad) == reward


def test_several_processes_where_work_is_not_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(recipe.RecipeError, match="launch: found 2 processes, expected one"):
        recipe.one_process()


def test_rows_longer_than_the_context_are_refused_before_training(tmp_path, tiny_config):
    from llama_align import LlamaHerdForCausalLM

    LlamaHerdForCausalLM(tiny_config(max_position_embeddings=64)).save_pretrained(tmp_path / "model")
    recipe.check_length(str(tmp_path / "model"), 64, "max_length")
    with pytest.raises(recipe.RecipeError, match="max_length: found 65, expected at most 64, the context of"):
        recipe.check_length(str(tmp_path / "model"), 65, "max_length")

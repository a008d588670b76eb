"""Where training starts: revision and code of a Hub repository, the type of weights, quantisation, LoRA's options."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from llama_align import recipe
from llama_align.data import Document
from llama_align.evaluation.measure import Evaluation
from llama_align.models import LlamaHerdForCausalLM
from llama_align.recipe.engines import EngineSettings
from llama_align.recipe.start import OF_4BIT, OF_LORA
from llama_align.recipe.unused import default_of
from llama_align.rejection.draws import Draws, sources
from llama_align.rewards.score_cache import ScoreCache
from llama_align.runtime.identity import checkpoint_dtype
from llama_align.sampling import SamplingParams


@pytest.fixture
def hub(family, tmp_path, monkeypatch) -> str:
    """A repository in the Hub's cache: `base` on branch main, `whole` on branch better."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for branch, commit, source in (("main", "a" * 40, "base"), ("better", "b" * 40, "whole")):
        shutil.copytree(family[source], tmp_path / "hub" / "models--owner--model" / "snapshots" / commit)
        (tmp_path / "hub" / "models--owner--model" / "refs").mkdir(exist_ok=True)
        (tmp_path / "hub" / "models--owner--model" / "refs" / branch).write_text(commit)
    return "owner/model"


def start(tmp_path, **options) -> recipe.Start:
    training = SFTConfig(output_dir=str(tmp_path / "out"), bf16=False, use_cpu=True, report_to="none")
    return recipe.Start.of(recipe.ModelArguments(**options), training)


def equal(model, path: str) -> bool:
    whole = AutoModelForCausalLM.from_pretrained(path).state_dict()
    return all(torch.equal(weight, whole[name]) for name, weight in model.state_dict().items())


# -- what is loaded


def test_a_revision_is_that_of_weights_tokenizer_and_context(hub, family, tmp_path, monkeypatch):
    asked = []
    for auto in (AutoConfig, AutoTokenizer, AutoModelForCausalLM):
        theirs = auto.from_pretrained

        def spied(name, *args, theirs=theirs, auto=auto, **kwargs):
            asked.append((auto.__name__, kwargs.get("revision"), kwargs.get("trust_remote_code")))
            return theirs(name, *args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", spied)
    training = SFTConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", trust_remote_code=True)
    found = recipe.Start.of(recipe.ModelArguments(model_name_or_path=hub, model_revision="better"), training)
    tokenizer = found.tokenizer()
    found.check_length(8, "max_length")
    model = found.model(tokenizer=tokenizer)
    ours = [row for row in asked if row[1] == "better"]
    assert {name for name, _, _ in ours} == {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"}
    assert all(trusted for _, _, trusted in ours)
    monkeypatch.undo()
    assert equal(model, family["whole"])


def test_a_reference_is_of_the_revision_that_training_starts_from(hub, stage, run_recipe, logged):
    run = run_recipe("dpo", **stage["dpo"] | {"max_steps": 1}, model_name_or_path=hub, model_revision="better")
    assert logged(run)[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)


def test_an_adapter_on_a_revision_names_it(hub, family, stage, run_recipe):
    lora = {"use_peft": True, "lora_r": 2, "model_name_or_path": hub, "model_revision": "better"}
    run = run_recipe("sft", **stage["sft"] | {"max_steps": 1, "learning_rate": 1e-9}, **lora)
    assert json.loads((run / "adapter_config.json").read_text())["revision"] == "better"
    for name, weight in recipe.load_model(str(run)).state_dict().items():
        whole = AutoModelForCausalLM.from_pretrained(family["whole"]).state_dict()[name]
        torch.testing.assert_close(weight, whole, atol=1e-6, rtol=0)


def test_another_revision_of_an_adapter_is_merged_anew_in_the_type_of_its_base(family, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(family["base"], tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(family["base"], dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    repository = tmp_path / "hub" / "models--owner--adapter"
    for branch, alpha in (("quiet", 1), ("loud", 99)):
        snapshot = repository / "snapshots" / f"{alpha:040}"
        shutil.copytree(family["adapter"], snapshot)
        for file in (*Path(family["base"]).glob("tokenizer*"), Path(family["base"], "config.json")):
            shutil.copy(file, snapshot)
        config = json.loads((snapshot / "adapter_config.json").read_text())
        config |= {"lora_alpha": alpha, "base_model_name_or_path": str(tmp_path / "half")}
        (snapshot / "adapter_config.json").write_text(json.dumps(config))
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(snapshot.name)
    weights = []
    for branch in ("quiet", "loud"):
        found = start(tmp_path, model_name_or_path="owner/adapter", model_revision=branch)
        assert found.saved_dtype == "bfloat16"
        assert recipe.load_model("owner/adapter", revision=branch).dtype == torch.bfloat16
        weights.append(found.model().state_dict())
    assert not all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_folder_has_no_revision(family, tmp_path):
    with pytest.raises(recipe.RecipeError, match=r"model_revision: found 'better' for the folder .*, expected a name"):
        start(tmp_path, model_name_or_path=family["base"], model_revision="better")


def test_nothing_to_start_from_is_named(tmp_path):
    with pytest.raises(recipe.RecipeError, match="model_name_or_path: found none, expected a checkpoint"):
        start(tmp_path)


def test_attention_is_the_one_asked_for(family, tmp_path):
    found = start(tmp_path, model_name_or_path=family["base"], attn_implementation="eager")
    assert found.model().config._attn_implementation == "eager"
    assert found.beside(family["reward_whole"], "value").config._attn_implementation == "eager"
    assert start(tmp_path, model_name_or_path=family["base"]).model().config._attn_implementation == "sdpa"


def test_a_size_is_for_models_made_anew(family, stage, run_recipe):
    for option in ({"size": "herd-nano"}, {"size_overrides": {"hidden_size": 8}}):
        with pytest.raises(recipe.RecipeError, match=rf"{next(iter(option))}\b.*: found .* with model_name_or_path"):
            run_recipe("pretrain", **stage["pretrain"] | option, model_name_or_path=family["base"])
    with pytest.raises(recipe.RecipeError, match="adapter: found 'refuse' without model_name_or_path, expected none"):
        run_recipe("pretrain", **stage["pretrain"], adapter="refuse")


def test_the_losses_of_trl_for_sft(family, stage, run_recipe, logged):
    found = [
        logged(run_recipe("sft", **stage["sft"] | {"max_steps": 1} | option, model_name_or_path=family["base"]))
        for option in ({}, {"loss_type": "dft"}, {"label_smoothing_factor": 0.3})
    ]
    assert len({round(rows[0]["loss"], 3) for rows in found}) == 3


# -- LoRA and quantisation


@pytest.mark.parametrize("name", [name for name in OF_LORA if name != "lora_task_type"])
def test_an_option_of_lora_reaches_it_or_asks_for_it(name):
    values = {"lora_r": 3, "lora_alpha": 5, "lora_dropout": 0.5, "use_rslora": True, "use_dora": True}
    value = values.get(name, ["q_proj", "k_proj"])
    assert value != default_of(recipe.ModelArguments, name)
    with pytest.raises(ValueError, match=f"^{name}: found .* without use_peft, expected use_peft: true"):
        recipe.ModelArguments(**{name: value})
    config = recipe.lora_config(recipe.ModelArguments(use_peft=True, **{name: value}))
    found = getattr(config, name.removeprefix("lora_") if not hasattr(config, name) else name)
    assert found == (set(value) if isinstance(found, set) else value)


def test_the_task_of_an_adapter_follows_from_the_recipe(family, tmp_path):
    options = {"model_name_or_path": family["base"], "use_peft": True, "lora_task_type": "SEQ_CLS"}
    assert start(tmp_path, **options).lora(reward=True).task_type == "SEQ_CLS"
    with pytest.raises(recipe.RecipeError, match="lora_task_type: found 'SEQ_CLS', expected 'CAUSAL_LM'"):
        start(tmp_path, **options).lora()


@pytest.mark.parametrize("name", OF_4BIT)
def test_an_option_of_four_bits_asks_for_four_bits(name):
    value = {"bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True, "bnb_4bit_quant_storage": "bfloat16"}[name]
    for option in ({}, {"load_in_8bit": True, "use_peft": True}):
        with pytest.raises(ValueError, match=f"^{name}: found .* without load_in_4bit, expected load_in_4bit: true"):
            recipe.ModelArguments(**{name: value} | option)
    recipe.ModelArguments(**{name: value}, load_in_4bit=True, use_peft=True)


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit"])
def test_a_quantised_base_is_refused_where_it_cannot_be(family, tmp_path, monkeypatch, name):
    with pytest.raises(ValueError, match=f"{name}: found true without use_peft, expected it; only adapters are"):
        recipe.ModelArguments(**{name: True})
    options = {"model_name_or_path": family["base"], "use_peft": True, name: True}
    monkeypatch.setattr("llama_align.recipe.quantised.bitsandbytes_knows", lambda device: False)
    with pytest.raises(recipe.RecipeError, match=f"^{name}: found true, expected it only with the package bitsandbyt"):
        start(tmp_path, **options)
    monkeypatch.setattr("llama_align.recipe.quantised.bitsandbytes_knows", lambda device: True)
    start(tmp_path, **options)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(recipe.RecipeError, match=f"^{name}: found true under FSDP, which shares out weights"):
        start(tmp_path, **options)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setattr("llama_align.recipe.quantised.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(recipe.RecipeError, match=f"^{name}: found true under ZeRO-3, which shares out weights"):
        start(tmp_path, **options)


def test_a_quantised_base_is_loaded_as_asked_and_nothing_is_merged_into_it(family, tmp_path, monkeypatch):
    """Without bitsandbytes as far as transformers: what it is handed."""
    handed = []
    monkeypatch.setattr("llama_align.recipe.quantised.bitsandbytes_knows", lambda device: True)

    def load(path, *_, quantization_config, **options):
        handed.append((path, quantization_config.to_dict()))
        return LlamaHerdForCausalLM.from_pretrained(path, output_loading_info=True, dtype=torch.float32)

    options = {"use_peft": True, "load_in_4bit": True, "use_bnb_nested_quant": True}
    found = start(tmp_path, model_name_or_path=family["base"], bnb_4bit_quant_type="fp4", **options)
    merged = start(tmp_path, model_name_or_path=family["adapter"], **options)
    continued = start(tmp_path, model_name_or_path=family["adapter"], load_in_8bit=True, adapter="continue")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    for run in (found, merged, continued):
        run.model()
    base = tmp_path / "out" / "base"  # merged whole, before it is quantised
    assert [path for path, _ in handed] == [family["base"], str(base), family["base"]]
    assert [config["load_in_4bit"] for _, config in handed] == [True, True, False]
    assert [config["load_in_8bit"] for _, config in handed] == [False, False, True]
    first = handed[0][1]
    assert (first["bnb_4bit_quant_type"], first["bnb_4bit_use_double_quant"]) == ("fp4", True)
    assert first["bnb_4bit_compute_dtype"] == "float32"


# -- the type of weights


def kept(run: Path, folder: str = ".") -> str:
    """The type of what a run left, as its configuration says and as its tensors are."""
    path = str(run / folder)
    loaded = recipe.load_model(path, "value" if folder == "value_model" else "causal")
    assert str(loaded.dtype) == f"torch.{checkpoint_dtype(path)}"
    return checkpoint_dtype(path)


@pytest.mark.parametrize("script", ["pretrain", "sft", "dpo", "ppo"])
def test_a_half_precision_checkpoint_is_trained_in_float32_and_saved_in_its_own_type(
    script, half_family, stage, run_recipe, logged
):
    options = stage[script] | {"model_name_or_path": half_family["whole"], "max_steps": 1}
    options |= {"save_strategy": "steps", "save_steps": 1}
    if script == "ppo":
        options["reward_models"] = {"helpfulness": half_family["reward_whole"]}
    run = run_recipe(script, **options)
    assert kept(run) == "bfloat16"
    assert kept(run / "checkpoint-1") == "float32"  # a run goes on from what it trained
    exact = recipe.load_model(str(run / "checkpoint-1")).state_dict()
    for name, weight in recipe.load_model(str(run)).state_dict().items():
        assert torch.equal(weight, exact[name].bfloat16()), name
    if script == "ppo":
        assert kept(run, "value_model") == "bfloat16"
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize(("dtype", "saved"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("auto", "bfloat16")])
def test_a_type_that_is_asked_for_is_that_of_training_and_of_what_is_saved(
    dtype, saved, half_family, stage, run_recipe
):
    options = stage["sft"] | {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "dtype": dtype}
    run = run_recipe("sft", **options, model_name_or_path=half_family["whole"])
    assert kept(run) == kept(run / "checkpoint-1") == saved


def test_a_reward_model_keeps_its_type(half_family, stage, run_recipe):
    run = run_recipe("reward", **stage["reward"] | {"max_steps": 1}, model_name_or_path=half_family["whole"])
    assert checkpoint_dtype(str(run)) == "bfloat16"
    assert recipe.load_model(str(run), "reward", new_head=False).score.weight.dtype == torch.bfloat16


def test_an_adapter_on_half_precision_is_trained_wide_and_merges_to_half(half_family, stage, run_recipe):
    lora = {"use_peft": True, "lora_r": 2}
    run = run_recipe("sft", **stage["sft"] | {"max_steps": 1} | lora, model_name_or_path=half_family["adapter"])
    assert checkpoint_dtype(str(run)) == checkpoint_dtype(str(run / "base")) == "bfloat16"
    model = recipe.load_model(str(run))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    frequencies = AutoModelForCausalLM.from_pretrained(run / "base", dtype=torch.bfloat16)
    for name, buffer in frequencies.named_buffers():
        assert dict(model.named_buffers())[name].dtype == buffer.dtype, name


def test_a_checkpoint_that_is_only_used_keeps_its_type_unless_asked(half_family, family, tokenizer, run_recipe):
    settings = EngineSettings()
    assert settings.load(half_family["whole"], tokenizer).dtype == torch.bfloat16
    assert settings.load(family["whole"], tokenizer).dtype == torch.float32
    assert EngineSettings(dtype="float32").load(half_family["whole"], tokenizer).dtype == torch.float32
    assert recipe.load_reward_model(half_family["reward_whole"]).scorer.model.dtype == torch.bfloat16
    average = run_recipe("average", models=[half_family["whole"], half_family["other"]])
    assert kept(average) == "bfloat16"
    assert kept(run_recipe("average", models=[half_family["adapter"]])) == "bfloat16"


def test_results_are_known_by_the_type_they_were_computed_in(half_family, family, tmp_path, monkeypatch):
    """`auto` is the same as the type it stands for, so that what was sampled and scored before stays known."""
    for path, dtype in ((family["whole"], "float32"), (half_family["whole"], "bfloat16")):
        folders = [ScoreCache(tmp_path, path, name).folder for name in ("auto", dtype)]
        assert folders[0] == folders[1]
        assert folders[0].name.endswith(f"-{dtype}")
        made = Mock()
        made.return_value.run.return_value = []
        monkeypatch.setattr("llama_align.rejection.draws.Shards", made)
        for name in ("auto", dtype):
            engine = EngineSettings(dtype=name).identity
            Draws(str(tmp_path), SamplingParams(1, 4), 2, 1, engine, lambda _: None)(sources([(path, 1)], 0)[0], [])
        identities = [call.args[-1] for call in made.call_args_list]
        assert identities[0] == identities[1]
        assert identities[0]["engine"]["dtype"] == dtype
        params = SamplingParams(1, 4)
        measured = [
            Evaluation(str(tmp_path), [], [Document("bado")], "none", None, params, 8, {"dtype": name})
            for name in ("auto", dtype)
        ]
        assert measured[0]._identity(path) == measured[1]._identity(path)

"""Every kind of adapter in every training recipe: it starts where its base is, and is saved as it was trained."""

import importlib.util
import json
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from llama_align import recipe
from llama_align.recipe import results
from llama_align.recipe.quantised import loading, multiplied_out, rounding_of
from llama_align.runtime.identity import checkpoint_digest
from llama_align.runtime.replacing import replaced

IDS = torch.tensor([[5, 9, 30, 12, 7, 100, 3]])
SCRIPTS = ("pretrain", "sft", "reward", "dpo", "ppo")
LORA = {"use_peft": True, "lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
KINDS = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "with whole modules": {"lora_modules_to_save": ["embed_tokens"]},
}
ROUNDED = {
    "4 bits": {"load_in_4bit": True},
    "4 bits, fp4, nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
    "4 bits, DoRA": {"load_in_4bit": True, "use_dora": True},
    "8 bits": {"load_in_8bit": True},
}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def trained(run_recipe):
    """Runs a recipe; returns its folder and the model as training left it."""

    def run(script: str, **options):
        held = []
        finish = results.finish

        def spied(trainer, *args, **kwargs):
            model = trainer.accelerator.unwrap_model(trainer.model)
            held.append(getattr(model, "policy", model))
            finish(trainer, *args, **kwargs)

        with replaced(results, "finish", spied):
            return run_recipe(script, **options), held[0]

    return run


def rounding_by(options: dict) -> dict:
    return rounding_of(recipe.ModelArguments(**LORA | options), "float32")


@pytest.fixture(scope="session")
def rounded(family, tokenizer, tmp_path_factory):
    """The base as rounding leaves it, multiplied out and saved whole, by the options that ask for it."""
    made = {}

    def make(options: dict) -> str:
        rounding = rounding_by(options)
        key = json.dumps(rounding)
        if key not in made:
            model = AutoModelForCausalLM.from_pretrained(family["base"], **loading(rounding))
            folder = tmp_path_factory.mktemp("rounded")
            multiplied_out(model).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = str(folder)
        return made[key]

    return make


def check_saved(script: str, run, model, tolerance: float = 1e-5) -> None:
    """What loads from a run's folder, there and moved, is the model that was trained; it is an adapter in float32."""
    kind = "reward" if script == "reward" else "causal"
    assert not list(run.glob("model*.safetensors"))
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    found = logits_of(recipe.load_model(str(run), kind))
    torch.testing.assert_close(found, logits_of(model), atol=tolerance, rtol=tolerance)
    digest = checkpoint_digest(str(run))
    moved = run.rename(run.with_name("moved"))
    assert torch.equal(logits_of(recipe.load_model(str(moved), kind)), found)
    assert checkpoint_digest(str(moved)) == digest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_adapter_starts_at_its_base_and_is_saved_as_it_was_trained(script, kind, family, stage, trained, logged):
    options = stage[script] | LORA | KINDS[kind]
    run, model = trained(script, **options, model_name_or_path=family["base"])
    whole, _ = trained(script, **stage[script] | {"max_steps": 1}, model_name_or_path=family["base"])
    assert logged(run)[0]["loss"] == pytest.approx(logged(whole)[0]["loss"], abs=1e-4)
    config = json.loads((run / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (kind == "DoRA", kind == "rsLoRA")
    names = {name for name, _ in model.named_parameters() if "embed_tokens.modules_to_save" in name}
    assert bool(names) == (kind == "with whole modules")
    check_saved(script, run, model)


def test_ppo_takes_no_base_in_eight_bits(family, stage, run_recipe):
    with pytest.raises(recipe.RecipeError, match=r"^load_in_8bit: found true, expected false, or load_in_4bit"):
        run_recipe("ppo", **stage["ppo"] | LORA | {"load_in_8bit": True}, model_name_or_path=family["base"])


@needs_bitsandbytes
@pytest.mark.parametrize(("script", "kind"), [pair for pair in product(SCRIPTS, ROUNDED) if pair != ("ppo", "8 bits")])
def test_an_adapter_on_a_rounded_base_is_one_on_its_numbers(script, kind, family, stage, trained, logged, rounded):
    options = stage[script] | LORA | ROUNDED[kind]
    run, model = trained(script, **options, model_name_or_path=family["base"])
    same = stage[script] | LORA | {"use_dora": kind == "4 bits, DoRA"}
    plain, _ = trained(script, **same, model_name_or_path=rounded(ROUNDED[kind]))
    for row, expected in zip(logged(run), logged(plain), strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-4, nan_ok=True)
    # where it does not train, bitsandbytes rounds what goes into products in 8 bits, too
    check_saved(script, run, model, 0.3 if kind == "8 bits" else 1e-4)


@needs_bitsandbytes
def test_every_option_of_rounding_has_its_effect(family, tmp_path):
    """Other numbers by each but the storage, which packs the same ones into another type."""
    training = SFTConfig(output_dir=str(tmp_path / "out"), bf16=False, use_cpu=True, report_to="none")
    four = {"load_in_4bit": True}
    asked = {
        "none": {},
        "nf4": four,
        "fp4": four | {"bnb_4bit_quant_type": "fp4"},
        "nested": four | {"use_bnb_nested_quant": True},
        "8 bits": {"load_in_8bit": True},
        "packed": four | {"bnb_4bit_quant_storage": "bfloat16"},
        "half": four | {"dtype": "bfloat16"},
    }
    models = {
        name: recipe.Start.of(
            recipe.ModelArguments(model_name_or_path=family["base"], use_peft=True, **options), training
        ).model()
        for name, options in asked.items()
    }
    logits = {name: logits_of(model).float() for name, model in models.items()}
    assert torch.equal(logits.pop("packed"), logits["nf4"])
    layers = {name: model.model.layers[0].mlp.up_proj.weight.dtype for name, model in models.items()}
    assert layers == dict.fromkeys(asked, torch.uint8) | {
        **{"none": torch.float32, "8 bits": torch.int8, "packed": torch.bfloat16}
    }
    for number, name in enumerate(logits):
        for other in list(logits)[:number]:
            assert not torch.equal(logits[name], logits[other]), (name, other)
    exact = logits["none"]
    assert all(0 < (found - exact).norm() / exact.norm() < 0.5 for name, found in logits.items() if name != "none")

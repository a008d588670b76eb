"""A stage that starts from an adapter does what it does from the same weights merged by PEFT and saved whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.recipe.engines import EngineSettings
from llama_align.runtime.identity import checkpoint_digest

IDS = torch.tensor([[5, 9, 30, 12, 7, 100, 3]])
LORA = {"use_peft": True, "lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def change(path: str, to: Path, **fields) -> str:
    """A copy of an adapter whose configuration says something else."""
    shutil.copytree(path, to)
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(config | fields))
    return str(to)


# -- loading


@pytest.mark.parametrize("kind", ["causal", "reward", "value"])
def test_an_adapter_loads_as_its_merged_weights(family, kind):
    prefix = "" if kind == "causal" else "reward_"
    found, whole = (recipe.load_model(family[f"{prefix}{name}"], kind) for name in ("adapter", "whole"))
    assert type(found) is type(whole)
    assert not hasattr(found, "peft_config")
    assert {name: weight.requires_grad for name, weight in found.named_parameters()} == {
        name: True for name, _ in whole.named_parameters()
    }
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, found.state_dict()[name]), name


def test_an_adapter_on_an_adapter_keeps_both(family, tmp_path):
    upper = change(family["adapter"], tmp_path / "upper", base_model_name_or_path=family["adapter"])
    once = recipe.load_model(family["adapter"])
    twice = PeftModel.from_pretrained(once, family["adapter"]).merge_and_unload()
    torch.testing.assert_close(logits_of(recipe.load_model(upper)), logits_of(twice))
    assert recipe.context_of(upper) == 256


def test_adapters_in_a_circle_are_refused(family, tmp_path):
    first = change(family["adapter"], tmp_path / "first", base_model_name_or_path=str(tmp_path / "second"))
    change(family["adapter"], tmp_path / "second", base_model_name_or_path=first)
    for load in (recipe.load_model, recipe.context_of):
        with pytest.raises(recipe.RecipeError, match="found an adapter that stands on itself"):
            load(first)


def test_loading_an_adapter_draws_no_random_number(family):
    torch.manual_seed(0)
    recipe.load_model(family["whole"])
    expected = torch.rand(3)
    torch.manual_seed(0)
    recipe.load_model(family["adapter"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": None}, "field 'base_model_name_or_path': found nothing, expected text"),
        (
            {"base_model_name_or_path": "/nowhere"},
            "field 'base_model_name_or_path': found '/nowhere', which is no",
        ),
        ({"r": 4}, r"found \[3, 48\], expected rank 4, as r in adapter_config.json says"),
        ({"target_modules": ["q_proj", "down_proj"]}, "which LlamaHerdForCausalLM has no place for"),
        ({"modules_to_save": ["lm_head"]}, r"does not fit .*lm_head"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(family, tmp_path, changes, said):
    path = change(family["adapter"], tmp_path / "changed", **changes)
    with pytest.raises(recipe.RecipeError, match=said):
        recipe.load_model(path)


def test_a_reward_adapter_is_no_policy_and_a_policys_no_reward_model(family):
    with pytest.raises(recipe.RecipeError, match=r"found tensor .*score.weight, which LlamaHerdForCausalLM has no"):
        recipe.load_model(family["reward_adapter"])
    with pytest.raises(recipe.RecipeError, match=r"found no score\.weight among its weights"):
        recipe.load_reward_model(family["adapter"])


def test_an_adapter_beside_whole_weights_is_ambiguous(family, tmp_path):
    path = change(family["adapter"], tmp_path / "both")
    shutil.copyfile(f"{family['base']}/model.safetensors", f"{path}/model.safetensors")
    with pytest.raises(recipe.RecipeError, match="found an adapter and a whole model in one folder"):
        recipe.load_model(path)


def test_nothing_is_merged_into_a_quantised_base(family, monkeypatch):
    from llama_align.models import LlamaHerdForCausalLM

    monkeypatch.setattr(LlamaHerdForCausalLM, "is_quantized", True, raising=False)
    with pytest.raises(recipe.RecipeError, match=r"found the quantised base .*, expected none to merge into"):
        recipe.load_model(family["adapter"])


def test_a_digest_is_of_adapter_and_base_wherever_they_lie(family, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(family["base"], folder / "elsewhere")
    moved = change(family["adapter"], folder / "adapter", base_model_name_or_path=str(folder / "elsewhere"))
    assert checkpoint_digest(moved) == checkpoint_digest(family["adapter"])
    other = change(family["adapter"], folder / "other", base_model_name_or_path=family["whole"])
    assert checkpoint_digest(other) != checkpoint_digest(family["adapter"])
    louder = change(family["adapter"], folder / "louder", lora_alpha=99)
    assert checkpoint_digest(louder) != checkpoint_digest(family["adapter"])


# -- training stages, merged


CASES = {  # a run from the adapter and what it must equal, name by name
    "sft, LoRA": ("sft", LORA, "adapter", "whole"),
    "sft, all weights": ("sft", {}, "adapter", "whole"),
    "pretrain": ("pretrain", {}, "adapter", "whole"),
    "reward from a policy, LoRA": ("reward", LORA, "adapter", "whole"),
    "reward from a reward model, LoRA": ("reward", LORA, "reward_adapter", "reward_whole"),
    "dpo, LoRA": ("dpo", LORA, "adapter", "whole"),
    "dpo, all weights": ("dpo", {}, "adapter", "whole"),
    "dpo, beforehand": ("dpo", {"precompute_ref_log_probs": True}, "adapter", "whole"),
    "ppo, LoRA": ("ppo", LORA, "adapter", "whole"),
    "ppo, all weights": ("ppo", {}, "adapter", "whole"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stage_from_an_adapter_is_the_stage_from_its_merged_weights(case, family, stage, run_recipe, logged):
    script, options, adapter, whole = CASES[case]
    runs = [run_recipe(script, **stage[script] | options, model_name_or_path=family[name]) for name in (adapter, whole)]
    for row, expected in zip(logged(runs[0]), logged(runs[1]), strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
    card = (runs[0] / "README.md").read_text()
    assert f"| started from | `{family[adapter]}` |" in card
    # what is written loads back to the same
    kind = "reward" if script == "reward" else "causal"
    found, expected = (logits_of(recipe.load_model(str(run), kind)) for run in runs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if options == LORA:
        _stands_on_its_own(runs[0], kind, found)


def _stands_on_its_own(run: Path, kind: str, found: torch.Tensor) -> None:
    """PEFT by itself gives the same scores, and so does the run's folder after a move."""
    config = json.loads((run / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(run / "base")
    if kind == "causal":
        base = AutoModelForCausalLM.from_pretrained(run / "base")
        torch.testing.assert_close(logits_of(PeftModel.from_pretrained(base, run)), found, atol=1e-5, rtol=1e-5)
    digest = checkpoint_digest(str(run))
    moved = run.rename(run.with_name("moved"))
    torch.testing.assert_close(logits_of(recipe.load_model(str(moved), kind)), found)
    assert checkpoint_digest(str(moved)) == digest


def test_lora_from_an_adapter_is_not_lora_from_its_base(family, stage, run_recipe, logged):
    """What went unnoticed: logged numbers equal to the last digit to those from the base."""
    losses = [
        logged(run_recipe("sft", **stage["sft"] | LORA, model_name_or_path=family[name]))[0]["loss"]
        for name in ("adapter", "base")
    ]
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)


def test_an_adapter_as_reference_and_as_critic_and_as_judge(family, stage, run_recipe, logged):
    runs = {}
    for name in ("adapter", "whole"):
        dpo = run_recipe("dpo", **stage["dpo"], model_name_or_path=family["base"], reference=family[name])
        judges = {"reward_models": {"helpfulness": family[f"reward_{name}"]}}
        ppo = run_recipe("ppo", **stage["ppo"] | judges, model_name_or_path=family["base"])
        runs[name] = logged(dpo) + logged(ppo)
    for row, expected in zip(runs["adapter"], runs["whole"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_merged_start_is_made_once_and_made_anew_from_another_adapter(family, stage, run_recipe, tmp_path):
    out = str(tmp_path / "out")
    options = stage["sft"] | {"output_dir": out, "max_steps": 1}
    run_recipe("sft", **options, model_name_or_path=family["adapter"])
    made = (tmp_path / "out" / "base" / "model.safetensors").stat().st_mtime_ns
    run_recipe("sft", **options, model_name_or_path=family["adapter"])
    assert (tmp_path / "out" / "base" / "model.safetensors").stat().st_mtime_ns == made
    louder = change(family["adapter"], tmp_path / "louder", lora_alpha=99)
    run_recipe("sft", **options, model_name_or_path=louder)
    assert json.loads((tmp_path / "out" / "base" / "merged.json").read_text())["adapter"] == louder
    assert not list((tmp_path / "out").glob("*.part"))


# -- training stages, continued or refused


@pytest.mark.parametrize("script", ["sft", "dpo", "ppo", "reward", "pretrain"])
def test_an_adapter_is_trained_further(script, family, stage, run_recipe, logged):
    kind, adapter, whole = "causal", "adapter", "whole"
    if script == "reward":
        kind, adapter, whole = "reward", "reward_adapter", "reward_whole"
    options = stage[script] | {"max_steps": 2, "model_name_or_path": family[adapter], "adapter": "continue"}
    run = run_recipe(script, **options)
    # the first loss is that of the merged weights, in DPO under a reference equal to them
    first = run_recipe(script, **stage[script] | {"max_steps": 1, "model_name_or_path": family[whole]})
    assert logged(run)[0]["loss"] == pytest.approx(logged(first)[0]["loss"], abs=1e-4)
    if script == "dpo":
        assert logged(run)[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert logged(run)[1]["rewards/margins"] != pytest.approx(0, abs=1e-4)
    config = json.loads((run / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (family["base"], 3)
    assert not (run / "ref").exists()
    assert not (run / "base").exists()
    found = logits_of(recipe.load_model(str(run), kind))
    assert not torch.allclose(found, logits_of(recipe.load_model(family[adapter], kind)), atol=1e-4)


def test_a_continued_run_resumes_where_it_was(family, stage, run_recipe, tmp_path):
    options = stage["dpo"] | {"model_name_or_path": family["adapter"], "adapter": "continue", "max_steps": 3}
    whole = run_recipe("dpo", **options | {"save_strategy": "steps", "save_steps": 2})
    resumed = run_recipe("dpo", **options, resume_from_checkpoint=str(whole / "checkpoint-2"))
    found, expected = (logits_of(recipe.load_model(str(run))) for run in (resumed, whole))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("sft", {"adapter": "refuse"}, "found an adapter, expected a whole checkpoint"),
        ("pretrain", {"adapter": "refuse"}, "found an adapter, expected a whole checkpoint"),
        ("sft", {"adapter": "stack"}, "adapter: found 'stack', expected merge, continue or refuse"),
        (
            "reward",
            {"adapter": "continue"},
            "found continue with an adapter for CAUSAL_LM .*, expected one for SEQ_CLS",
        ),
        ("dpo", {"adapter": "continue", **LORA}, "lora_r: found 2, expected 3 as in the adapter that is continued"),
        ("ppo", {"adapter": "continue", "lora_r": 3}, "lora_r: found 3 without use_peft"),
    ],
)
def test_what_cannot_be_done_with_an_adapter_is_refused(script, options, said, family, stage, run_recipe):
    with pytest.raises(recipe.RecipeError, match=said):
        run_recipe(script, **stage[script] | options, model_name_or_path=family["adapter"])


def test_an_equal_configuration_may_be_named(family, stage, run_recipe):
    same = {"use_peft": True, "lora_r": 3, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": ["q_proj"]}
    options = stage["sft"] | {"adapter": "continue", "model_name_or_path": family["adapter"]}
    with pytest.raises(recipe.RecipeError, match=r"lora_target_modules: found .*, expected .* as in the adapter"):
        run_recipe("sft", **options | same)
    del same["lora_target_modules"]
    run_recipe("sft", **options | same | {"max_steps": 1})


def test_without_an_adapter_there_is_none_to_continue(family, stage, run_recipe):
    with pytest.raises(recipe.RecipeError, match=r"adapter: found continue, expected merge or refuse; .* holds no"):
        run_recipe("sft", **stage["sft"], adapter="continue", model_name_or_path=family["base"])


# -- stages that do not train


def test_samples_pairs_and_measurements_of_an_adapter_are_those_of_its_merged_weights(family, data, run_recipe):
    found = {}
    for name in ("adapter", "whole"):
        policy, judges = family[name], {"helpfulness": family[f"reward_{name}"]}
        options = {"datasets": data["prompt"], "max_new_tokens": 8, "reward_models": judges}
        drawn = run_recipe("rejection_sampling", **options, model=[policy], answers=3)
        samples = [json.loads(line) for line in (drawn / "samples.jsonl").read_text().splitlines()]
        pairs = run_recipe("annotate", **options, models=[policy], annotator="reward")
        measured = run_recipe("evaluate", **options, models={"row": policy}, texts=data["document"], context=64)
        row = json.loads((measured / "row.json").read_text())
        found[name] = {
            "completions": [sample["completion"] for sample in samples],
            "scores": [sample["rewards"]["helpfulness"] for sample in samples],
            "preferences": (pairs / "preferences.jsonl").read_text(),
            "perplexity": row["perplexity"]["value"],
            "rewards": row["rewards"]["helpfulness"],
        }
    for name in ("completions", "preferences"):
        assert found["adapter"][name] == found["whole"][name]
    for name in ("scores", "rewards", "perplexity"):
        assert found["adapter"][name] == pytest.approx(found["whole"][name], abs=1e-5)


def test_the_transformers_engine_samples_from_an_adapter_too(family, data, run_recipe):
    options = {"datasets": data["prompt"], "max_new_tokens": 8, "engine": "transformers", "temperature": 0.0}
    found = [
        json.loads((run_recipe("evaluate", **options, models={"row": family[name]}) / "row.json").read_text())["length"]
        for name in ("adapter", "whole")
    ]
    assert found[0] == found[1]


def test_vllm_is_given_no_adapter(family, tokenizer):
    with pytest.raises(recipe.RecipeError, match="found an adapter, expected a whole checkpoint for engine vllm"):
        EngineSettings("vllm").model(family["adapter"], tokenizer)
    assert EngineSettings("vllm").model(family["whole"], tokenizer) == family["whole"]


def test_an_average_of_adapters_is_that_of_their_merged_weights(family, run_recipe):
    runs = [run_recipe("average", models=[family[name], family["base"]]) for name in ("adapter", "whole")]
    torch.testing.assert_close(*(logits_of(recipe.load_model(str(run))) for run in runs))
    assert json.loads((runs[0] / "metrics.json").read_text()) == json.loads((runs[1] / "metrics.json").read_text())
    assert not list(runs[0].glob(".merged*"))
    alone = run_recipe("average", models=[family["reward_adapter"]])
    found = AutoModelForSequenceClassification.from_pretrained(alone)
    whole = AutoModelForSequenceClassification.from_pretrained(family["reward_whole"])
    torch.testing.assert_close(logits_of(found), logits_of(whole))
    assert not list(alone.glob("merged.json"))

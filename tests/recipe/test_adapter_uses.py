"""Whatever takes a checkpoint takes an adapter's folder, and makes of it what it makes of the merged weights."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import cli, recipe
from llama_align.chat import as_text
from llama_align.recipe.quantised import loading, multiplied_out, write_rounding

AUTO = {"": AutoModelForCausalLM, "reward_": AutoModelForSequenceClassification}
TASKS = {"": "CAUSAL_LM", "reward_": "SEQ_CLS"}
ROUNDING = {"load_in_4bit": True, "dtype": "float32", "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False}
KINDS = ["LoRA", "DoRA", "with whole modules", "on an adapter", "on 4 bits"]
IDS = torch.tensor([[5, 9, 30, 12, 7, 100, 3]])


@torch.no_grad()
def logits_of(path: str, kind: str = "causal") -> torch.Tensor:
    return recipe.load_model(str(path), kind).eval()(input_ids=IDS).logits


@pytest.fixture(scope="session")
def pairs(family, tokenizer, tmp_path_factory):
    """Adapters of a kind, and the same weights merged by PEFT alone: `policy` and `judge`, each (adapter, whole)."""
    made = {}

    def new(kind: str, prefix: str) -> tuple[str, str]:
        folder = tmp_path_factory.mktemp("kind")
        base = family["base"] if kind != "on an adapter" else family[f"{prefix}adapter"]
        whole = family["base"] if kind != "on an adapter" else family[f"{prefix}whole"]
        options = {"num_labels": 1} if prefix else {}
        model = AUTO[prefix].from_pretrained(whole, **options)
        saved = ["score"] if prefix else []
        config = LoraConfig(
            task_type=TASKS[prefix],
            r=2,
            target_modules="all-linear",
            use_dora=kind == "DoRA",
            modules_to_save=saved + (["embed_tokens"] if kind == "with whole modules" else []) or None,
        )
        if kind == "on 4 bits":
            head = {"score.weight": model.score.weight.detach().clone()} if prefix else {}
            model = multiplied_out(AUTO[prefix].from_pretrained(whole, **loading(ROUNDING), **options))
            model.load_state_dict(head, strict=False)
            write_rounding(config, ROUNDING)
        torch.manual_seed(1)
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    weight.add_(torch.randn_like(weight), alpha=0.1)
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(folder / "adapter")
        adapted.merge_and_unload().save_pretrained(folder / "whole")
        tokenizer.save_pretrained(folder / "whole")  # the adapter has none: it takes that of its base
        return str(folder / "adapter"), str(folder / "whole")

    def make(kind: str) -> dict[str, tuple[str, str]]:
        if kind == "on 4 bits" and importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed")
        if kind not in made:
            made[kind] = {"policy": new(kind, ""), "judge": new(kind, "reward_")}
        return made[kind]

    return make


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def check_same(found, expected) -> None:
    """Equal words, and numbers to rounding, in nested results."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            check_same(found[name], expected[name])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    else:
        assert found == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-5))


# -- what each use makes of a policy and a judge, in words and numbers


def converted(policy, judge, run_recipe, data, folder):
    for name, path in (("policy", policy), ("judge", judge)):
        assert cli.main(["convert", path, str(folder / name)]) == 0
    tokenizer = json.loads((folder / "policy" / "tokenizer.json").read_text())
    return {name: tensors_of(folder / name) for name in ("policy", "judge")} | {"tokenizer": json.dumps(tokenizer)}


def published(policy, judge, run_recipe, data, folder):
    assert cli.main(["convert", policy, str(folder / "out"), "--to", "herd", "--with-code"]) == 0
    assert (folder / "out" / "modeling_llama_herd.py").is_file()
    return tensors_of(folder / "out")


def in_a_gguf(policy, judge, run_recipe, data, folder):
    gguf = pytest.importorskip("gguf")
    assert cli.main(["convert", policy, str(folder / "policy.gguf"), "--to", "gguf"]) == 0
    return {
        tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in gguf.GGUFReader(folder / "policy.gguf").tensors
    }


def averaged(policy, judge, run_recipe, data, folder):
    return tensors_of(run_recipe("average", models=[policy, policy], weights=[1.0, 3.0]))


def evaluated(policy, judge, run_recipe, data, folder):
    options = {"datasets": data["prompt"], "max_new_tokens": 8, "reward_models": {"helpfulness": judge}}
    out = run_recipe("evaluate", **options, models={"row": policy}, texts=data["document"], context=64)
    row = json.loads((out / "row.json").read_text())
    return {"perplexity": row["perplexity"]["value"], "rewards": row["rewards"]["helpfulness"]}


def drawn_and_scored(policy, judge, run_recipe, data, folder):
    options = {"datasets": data["prompt"], "max_new_tokens": 32, "reward_models": {"helpfulness": judge}}
    out = run_recipe("rejection_sampling", **options, model=[policy], answers=8)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return {
        "completions": " | ".join(as_text(sample["completion"]) for sample in samples),
        "rewards": [sample["rewards"]["helpfulness"] for sample in samples],
    }


def annotated(policy, judge, run_recipe, data, folder):
    options = {"datasets": data["prompt"], "max_new_tokens": 8, "reward_models": {"helpfulness": judge}}
    out = run_recipe("annotate", **options, models=[policy], annotator="reward")
    return (out / "preferences.jsonl").read_text()


def chosen(policy, judge, run_recipe, data, folder):
    options = {"datasets": data["prompt"], "max_new_tokens": 8, "reward_models": {"helpfulness": judge}}
    return logits_of(run_recipe("choose", **options, models={"only": policy}))


def trained_on(policy, judge, run_recipe, data, folder):
    options = {"bf16": False, "report_to": "none", "save_strategy": "no", "max_steps": 1, "max_length": 160}
    options |= {"gradient_checkpointing": False, "per_device_train_batch_size": 4, "logging_steps": 1}
    out = run_recipe("sft", **options, datasets=data["demonstration"], model_name_or_path=policy)
    return json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"]


USES = [converted, published, in_a_gguf, averaged, evaluated, drawn_and_scored, annotated, chosen, trained_on]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_use_of_an_adapter_is_that_of_its_merged_weights(kind, use, pairs, run_recipe, data, tmp_path):
    made = pairs(kind)
    found, expected = (
        use(made["policy"][number], made["judge"][number], run_recipe, data, tmp_path / str(number))
        for number in (0, 1)
    )
    check_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_continued_or_refused(kind, pairs, run_recipe, stage, logged):
    adapter, whole = pairs(kind)["policy"]
    options = stage["sft"] | {"max_steps": 1}
    expected = logged(run_recipe("sft", **options, model_name_or_path=whole))[0]["loss"]
    merged = run_recipe("sft", **options, model_name_or_path=adapter)
    assert logged(merged)[0]["loss"] == pytest.approx(expected, abs=1e-4)
    four = {"load_in_4bit": True} if kind == "on 4 bits" else {}
    on = run_recipe("sft", **options | four, model_name_or_path=adapter, adapter="continue")
    assert logged(on)[0]["loss"] == pytest.approx(expected, abs=1e-4)
    assert not list(on.glob("model*.safetensors"))
    with pytest.raises(recipe.RecipeError, match="found an adapter, expected a whole checkpoint"):
        run_recipe("sft", **options, model_name_or_path=adapter, adapter="refuse")
    if four:
        with pytest.raises(
            recipe.RecipeError, match=r"continue with a base that is not rounded, expected \{.*'load_in_4bit': True"
        ):
            run_recipe("sft", **options, model_name_or_path=adapter, adapter="continue")


# -- what lies in the folders


def test_an_adapter_without_a_tokenizer_has_that_of_its_base_or_is_named(pairs, family, stage, run_recipe, tmp_path):
    adapter, _ = pairs("LoRA")["policy"]
    assert not list(Path(adapter).glob("tokenizer*"))
    assert len(recipe.load_tokenizer(adapter)) == len(recipe.load_tokenizer(family["base"]))
    bare = tmp_path / "bare"
    shutil.copytree(family["base"], bare, ignore=shutil.ignore_patterns("tokenizer*"))
    lone = tmp_path / "lone"
    shutil.copytree(adapter, lone)
    config = json.loads((lone / "adapter_config.json").read_text())
    (lone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(bare)}))
    with pytest.raises(recipe.RecipeError, match=f"^{lone}: found no tokenizer files in it, nor in its base {bare}"):
        run_recipe("sft", **stage["sft"], model_name_or_path=str(lone))


def test_a_chosen_adapter_takes_its_base_along(family, stage, data, run_recipe, tmp_path):
    lora = {"use_peft": True, "lora_r": 2}
    run = run_recipe("sft", **stage["sft"] | lora, model_name_or_path=family["adapter"])
    assert (run / "base" / "merged.json").is_file()
    expected = logits_of(run)
    judge = {"reward_models": {"helpfulness": family["reward_whole"]}}
    out = run_recipe("choose", datasets=data["prompt"], max_new_tokens=8, models={"only": str(run)}, **judge)
    shutil.rmtree(run)
    moved = out.rename(out.with_name("moved"))
    assert torch.equal(logits_of(moved), expected)
    # another choice into the same folder leaves no base of the first
    options = {"datasets": data["prompt"], "max_new_tokens": 8, **judge, "output_dir": str(moved)}
    run_recipe("choose", models={"only": family["whole"]}, **options)
    assert not (moved / "base").exists()
    torch.testing.assert_close(logits_of(moved), logits_of(family["whole"]))


def test_a_converted_adapter_brings_the_licence_of_its_base_and_replaces_no_source(family, tmp_path, capsys):
    for name in ("base", "adapter"):
        shutil.copytree(family[name], tmp_path / name)
    (tmp_path / "base" / "LICENSE.txt").write_text("of the base")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}
    file.write_text(json.dumps(config))
    assert cli.main(["convert", str(tmp_path / "adapter"), str(tmp_path / "base"), "--overwrite"]) == 2
    assert "expected a folder apart from" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "adapter"), str(tmp_path / "out"), "--to", "llama"]) == 0
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "of the base"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family["base"]), family["adapter"])
    torch.testing.assert_close(logits_of(tmp_path / "out"), whole.eval()(input_ids=IDS).logits.detach())


@pytest.mark.parametrize(
    "said", [5, {"load_in_4bit": True}, ROUNDING | {"dtype": "int8"}, {"load_in_8bit": False, "dtype": "float32"}]
)
def test_what_says_nothing_of_how_a_base_was_rounded_is_refused(family, tmp_path, said):
    shutil.copytree(family["adapter"], tmp_path / "odd")
    file = tmp_path / "odd" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": {"quantised": said}}))
    with pytest.raises(
        recipe.RecipeError, match=r"odd/adapter_config.json, field 'auto_mapping.quantised': found .*, e"
    ):
        recipe.load_model(str(tmp_path / "odd"))


def test_an_adapter_on_a_rounded_base_is_refused_without_what_rounds_it(family, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_align.recipe.quantised.bitsandbytes_knows", lambda device: False)
    shutil.copytree(family["adapter"], tmp_path / "four")
    file = tmp_path / "four" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": {"quantised": ROUNDING}}))
    with pytest.raises(recipe.RecipeError, match=r"four: found load_in_4bit, expected it only with the package bitsan"):
        recipe.load_model(str(tmp_path / "four"))


def test_merged_weights_end_where_the_adapter_was_trained_to(family, tokenizer, tmp_path):
    """The base ends a text with another token, pads with none, and so would what is merged into it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(family["base"], base)
    shutil.copytree(family["adapter"], adapter)
    text = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((base / name).read_text()) | {"eos_token_id": text, "pad_token_id": None}
        (base / name).write_text(json.dumps(fields))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    assert cli.main(["convert", str(adapter), str(tmp_path / "out"), "--to", "llama"]) == 0
    fields = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert fields["eos_token_id"] == [tokenizer.eos_token_id, text]
    assert tokenizer.eos_token_id != text
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (fields["eos_token_id"], fields["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)

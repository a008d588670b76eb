"""Base models as published: control tokens given before training, and pretraining that goes on at a longer context."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llama_align import recipe
from llama_align.chat.adding import missing_tokens
from llama_align.data import text_ids, tokens_of
from llama_align.recipe.positions import with_rope

from ..chat import bases

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 256}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(bases.write(tmp_path_factory.mktemp("base") / "base", bases.sentencepiece()))


@pytest.fixture
def options(stage, base) -> dict:
    """Of pretraining that goes on."""
    return {**stage["pretrain"], "max_steps": 1, "model_name_or_path": base, "tokenizer": ""}


def test_a_recipe_adds_control_tokens_first(base, stage, run_recipe):
    options = stage["sft"] | {"max_steps": 1, "max_length": 256, "too_long": "drop"}
    run = run_recipe("sft", **options, model_name_or_path=base, add_control_tokens=True)
    assert missing_tokens(AutoTokenizer.from_pretrained(run)) == []
    assert json.loads((run / "base/merged.json").read_text())["checkpoint"] == base
    assert f"{base}, with control tokens added" in (run / "README.md").read_text()
    with pytest.raises(recipe.RecipeError, match=r"add_control_tokens: .* has all of Llama 3's control tokens"):
        run_recipe("sft", **options, model_name_or_path=str(run), add_control_tokens=True)


def test_an_adapter_is_no_base_to_add_to(family, stage, run_recipe):
    with pytest.raises(recipe.RecipeError, match="add_control_tokens: found true for the adapter"):
        run_recipe("sft", **stage["sft"], model_name_or_path=family["adapter"], add_control_tokens=True)


def test_pretraining_goes_on_with_another_context_and_base_of_the_frequencies(options, run_recipe, logged):
    """One step at a rate of nothing: the loss is that of the checkpoint at these positions."""
    overrides = {"max_position_embeddings": 1024, "rope_theta": 500000, "rope_scaling": LLAMA3}
    run = run_recipe("pretrain", **options | {"learning_rate": 1e-30, "context": 512}, size_overrides=overrides)
    config = AutoConfig.from_pretrained(run)
    assert config.max_position_embeddings == 1024
    assert config.rope_parameters == LLAMA3 | {"rope_theta": 500000}
    again = run_recipe("pretrain", **options | {"learning_rate": 1e-30, "context": 512, "model_name_or_path": str(run)})
    assert logged(again)[0]["loss"] == pytest.approx(logged(run)[0]["loss"], rel=1e-5)
    before = run_recipe("pretrain", **options | {"learning_rate": 1e-30, "context": 256})
    assert AutoConfig.from_pretrained(before).rope_parameters["rope_theta"] == 10000


def test_a_new_base_of_the_frequencies_changes_what_the_model_says(base):
    ids = torch.arange(30)[None]
    plain, other = (AutoModelForCausalLM.from_pretrained(base, **fields)(ids).logits for fields in ({}, ROPE))
    assert not torch.allclose(plain, other, atol=1e-3)


ROPE = with_rope({"rope_theta": 100}, {"rope_type": "default", "rope_theta": 1e4}, "size_overrides")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"size_overrides": {"hidden_size": 64}},
            "field 'hidden_size': found 64 with model_name_or_path, expected only",
        ),
        (
            {"size_overrides": {"rope_theta": 0}},
            "size_overrides, field 'rope_theta': found 0, expected a number above 0",
        ),
        (
            {"size_overrides": {"rope_theta": 5, "rope_parameters": {}}},
            "field 'rope_theta': found it beside rope_param",
        ),
        (
            {"size_overrides": {"rope_scaling": {"type": "odd"}}},
            "found the type 'odd', expected one of default",
        ),
        ({"context": 512}, "context: found 512, expected at most 256, max_position_embeddings, which size_overrides"),
        ({"size": "herd-nano"}, "size: found 'herd-nano' with model_name_or_path, expected none"),
        ({"add_control_tokens": True, "tokenizer": "x"}, "tokenizer: found 'x' with add_control_tokens, expected none"),
        ({"add_control_tokens": True, "model_name_or_path": None}, "add_control_tokens: found True without model_name"),
    ],
)
def test_what_a_checkpoint_cannot_be_given_is_refused(options, run_recipe, changes, said):
    with pytest.raises(recipe.RecipeError) as error:
        run_recipe("pretrain", **options | changes)
    assert said in str(error.value)


def test_a_preset_takes_the_published_names_too(stage, run_recipe, family):
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "rope_theta": 2e5}
    run = run_recipe("pretrain", **stage["pretrain"] | {"max_steps": 1}, size_overrides=size)
    assert AutoConfig.from_pretrained(run).rope_parameters["rope_theta"] == 2e5


def test_documents_need_no_control_tokens(options, run_recipe, tmp_path):
    """A tokenizer with nothing but an end of text, which no dialect fits."""
    tokenizer = bases.byte_level()
    with pytest.raises(ValueError, match="expected the control tokens"):
        recipe.load_tokenizer(str(bases.write(tmp_path / "base", tokenizer)))
    tokens = tokens_of(tokenizer)
    assert (tokens.bos, tokens.eos) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert text_ids(["ba do"], tokenizer)[0][-1] == tokens.eos
    run = run_recipe("pretrain", **options | {"model_name_or_path": str(tmp_path / "base")})
    assert len(AutoTokenizer.from_pretrained(run)) == len(tokenizer)
    tokenizer.bos_token = None
    assert text_ids(["ba"], tokenizer)[0][0] == tokenizer("ba")["input_ids"][0]

"""Auto classes, checkpoints on disk, the value model of a reward model, checkpointing of activations, presets."""

import inspect

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import llama_align
from llama_align import recipe
from llama_align.models import PRESETS, parameter_count, preset

AUTO = {
    "LlamaHerdModel": AutoModel,
    "LlamaHerdForCausalLM": AutoModelForCausalLM,
    "LlamaHerdForSequenceClassification": AutoModelForSequenceClassification,
    "LlamaHerdForTokenClassification": AutoModelForTokenClassification,
}
# published, in billions: Llama 1 table 2, Llama 2, Llama 3 and 3.2 model cards; Code Llama, 34B as its; SmolLM2's name
BILLIONS = {
    "llama-1-7b": 6.74,
    "llama-1-13b": 13.02,
    "llama-1-33b": 32.53,
    "llama-1-65b": 65.29,
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.02,
    "llama-2-34b": 33.74,
    "llama-2-70b": 68.98,
    "code-llama-7b": 6.74,
    "code-llama-13b": 13.02,
    "code-llama-34b": 33.74,
    "llama-3-8b": 8.03,
    "llama-3-70b": 70.55,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.55,
    "llama-3.1-405b": 405.85,
    "llama-3.2-1b": 1.24,
    "llama-3.2-3b": 3.21,
    "smollm2-135m": 0.13,
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_the_published_number_of_parameters(name):
    config = preset(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert parameter_count(config) == sum(weight.numel() for weight in model.parameters())
    if name in BILLIONS:
        assert round(parameter_count(config) / 1e9, 2) == BILLIONS[name]


def test_every_published_size_is_a_preset_and_the_herd_has_three():
    assert set(PRESETS) - set(BILLIONS) == {"herd-nano", "herd-micro", "herd-mini"}


@pytest.mark.parametrize(("name", "wanted"), [("herd-nano", 1e6), ("herd-micro", 1e7), ("herd-mini", 1.25e8)])
def test_the_herds_own_sizes(name, wanted):
    assert abs(parameter_count(preset(name)) / wanted - 1) < 0.1


def test_presets_encode_the_published_shapes():
    assert preset("llama-2-70b").num_key_value_heads == 8
    assert preset("llama-1-65b").rms_norm_eps == 1e-6
    assert preset("llama-2-7b").rms_norm_eps == 1e-5
    assert preset("llama-3.1-8b").rope_parameters["factor"] == 8
    assert preset("llama-3.2-1b").rope_parameters["factor"] == 32
    assert preset("llama-3-8b").rope_parameters["rope_theta"] == 5e5
    assert preset("code-llama-7b").rope_parameters["rope_theta"] == 1e6
    assert preset("llama-2-34b").num_key_value_heads == 8
    for size, config in PRESETS.items():
        if size.startswith("llama-1"):  # two thirds of 4 d, rounded up to a multiple of 256
            assert config["intermediate_size"] == -(-8 * config["hidden_size"] // 3 // 256) * 256


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}, {"head_dim": 12}])
def test_parameter_count_of_small_instances(tiny_config, changes):
    for tied in (True, False):
        config = tiny_config(tie_word_embeddings=tied, **changes)
        model = llama_align.LlamaHerdForCausalLM(config)
        assert parameter_count(config) == sum(weight.numel() for weight in model.parameters())


def test_a_preset_takes_overrides_and_refuses_unknown_names():
    assert preset("herd-nano", vocab_size=300).vocab_size == 300
    with pytest.raises(ValueError, match=r"'herd-giga', expected one of herd-nano, herd-micro"):
        preset("herd-giga")


def test_a_preset_takes_rotary_frequencies_by_either_name():
    assert preset("llama-3.1-8b", rope_theta=300.0).rope_parameters["rope_theta"] == 300
    assert preset("llama-3.1-8b", rope_theta=300.0).rope_parameters["factor"] == 8
    scaled = preset("llama-3-8b", rope_scaling={"type": "linear", "factor": 4.0}).rope_parameters
    assert (scaled["rope_type"], scaled["factor"], scaled["rope_theta"]) == ("linear", 4, 5e5)
    with pytest.raises(ValueError, match="field 'rope_theta': found it beside rope_parameters"):
        preset("herd-nano", rope_theta=300.0, rope_parameters={"rope_type": "default", "rope_theta": 1e6})


def test_two_presets_share_no_state():
    first = preset("llama-3.1-8b")
    first.rope_parameters["factor"] = 99.0
    assert preset("llama-3.1-8b").rope_parameters["factor"] == 8


def test_exported_names_are_importable():
    for package in (llama_align, llama_align.models):
        assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(AUTO) | {"LlamaHerdConfig"} <= set(llama_align.__all__)


@pytest.mark.parametrize("name", sorted(AUTO))
def test_auto_classes_make_save_and_load(tmp_path, tiny_config, name):
    torch.manual_seed(0)
    model = AUTO[name].from_config(tiny_config(num_labels=1)).eval()
    assert type(model).__name__ == name
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))
    loaded = AUTO[name].from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "LlamaHerdConfig"
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    ids = torch.tensor([[30, 40, 50]])
    assert torch.equal(model(ids)[0], loaded(ids)[0])


@pytest.mark.parametrize("name", sorted(AUTO))
def test_forward_names_its_inputs(name):
    """transformers' Trainer drops the columns of a batch that the signature does not name."""
    wanted = {"input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache"}
    wanted |= {"labels"} if name != "LlamaHerdModel" else set()
    assert wanted <= set(inspect.signature(getattr(llama_align, name).forward).parameters)


def test_tied_heads_stay_tied_through_a_checkpoint(tmp_path, tiny_config):
    llama_align.LlamaHerdForCausalLM(tiny_config(tie_word_embeddings=True)).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_value_model_starts_with_the_reward_models_head(tmp_path, tiny_config, tokenizer):
    torch.manual_seed(0)
    reward = AutoModelForSequenceClassification.from_config(tiny_config(num_labels=1)).eval()
    reward.save_pretrained(tmp_path)
    value = recipe.load_model(str(tmp_path), "value", tokenizer).eval()
    assert value.score.bias is None
    assert torch.equal(value.score.weight, reward.score.weight)
    ids = torch.tensor([[30, 40, 50, 60]])
    with torch.no_grad():  # V at the last token is the reward of the sequence
        assert torch.equal(value(ids).logits[:, -1], reward(ids).logits)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_reward_is_read_at_the_last_token_that_is_not_padding(tiny_config, tokenizer, padding):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config(num_labels=1)).eval()
    ids = torch.tensor([[30, 40, tokenizer.eos_token_id]])
    fill = torch.full((1, 4), tokenizer.pad_token_id)
    padded = torch.cat([fill, ids] if padding == "left" else [ids, fill], 1)
    with torch.no_grad():
        alone = model(ids, attention_mask=torch.ones_like(ids)).logits
        beside = model(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits
    assert alone.shape == (1, 1)
    assert (alone - beside).abs().max() < 1e-5


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_activations_changes_no_gradient(tiny_config, reentrant):
    torch.manual_seed(0)
    model = llama_align.LlamaHerdForCausalLM(tiny_config()).train()
    ids = torch.randint(20, 380, (2, 12))
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)

    def gradients():
        model.zero_grad()
        model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    handle = model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = gradients()
    handle.remove()
    assert len(calls) == 2  # once forward, once again backward: it really was checkpointed
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_pickled_checkpoints_are_refused(tmp_path, tiny_config):
    model = llama_align.LlamaHerdForCausalLM(tiny_config())
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(recipe.RecipeError, match=r"pytorch_model\.bin; expected weights in model\.safetensors"):
        recipe.load_model(str(tmp_path))

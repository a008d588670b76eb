"""What fine-tuning adds, against adapters that PEFT makes and the FLOPs that PyTorch counts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from llama_align import LlamaHerdForCausalLM
from llama_align.kernels import routed
from llama_align.models import parameter_count, preset
from llama_align.sizes.cost import kv_cache_bytes
from llama_align.sizes.footprint import (
    NF4_BITS,
    adapter_count,
    frozen_bytes,
    gathered_bytes,
    sampling_seconds,
    training_flops,
)


def test_adapters_are_those_peft_makes(tiny_config):
    for changes in ({}, {"num_key_value_heads": 4, "head_dim": 12, "intermediate_size": 80}):
        model = LlamaHerdForCausalLM(tiny_config(**changes))
        adapted = get_peft_model(model, LoraConfig(r=6, target_modules="all-linear", task_type="CAUSAL_LM"))
        made = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        assert adapter_count(model.config, 6) == made


def test_frozen_weights(tiny_config):
    config = tiny_config(tie_word_embeddings=False)
    model = LlamaHerdForCausalLM(config)
    linear = sum(
        module.weight.numel() for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)
    )
    assert frozen_bytes(config, torch.bfloat16) == 2 * parameter_count(config)
    rest = parameter_count(config) - linear
    assert frozen_bytes(config, torch.float32, four_bits=True) == int(linear * NF4_BITS / 8) + 4 * rest
    assert pytest.approx(4.127, abs=1e-3) == NF4_BITS  # QLoRA, section 3: 0.127 bits a weight of constants


def test_a_device_gathers_less_than_the_model():
    config = preset("llama-3.1-8b")
    assert 128256 * 4096 * 2 < gathered_bytes(config) < parameter_count(config) * 2 / 4


def test_flops_of_adapters_are_those_of_a_model_whose_weights_are_frozen(tiny_config):
    routed()
    config = tiny_config()
    model = LlamaHerdForCausalLM._from_config(config, attn_implementation="eager").train()
    for name, weight in model.named_parameters():
        weight.requires_grad = "norm" in name  # gradients go through every product, and to none of their weights
    rows, length = 2, 16
    with FlopCounterMode(display=False) as counted:
        model.model(inputs_embeds=torch.randn(rows, length, config.hidden_size, requires_grad=True))[0].sum().backward()
    squared = 4 * (length * length - length * (length + 1) // 2) * config.num_hidden_layers * rows
    squared *= 3 * config.num_attention_heads * config.head_dim  # the eager pass computes the full square
    head = 2 * 2 * rows * length * config.hidden_size * config.vocab_size  # forward and to the states; not run here
    assert counted.get_total_flops() == training_flops(config, [length] * rows, adapters=True) - head + squared
    assert training_flops(config, [length], adapters=True) < training_flops(config, [length])


def test_sampling_is_bound_by_what_is_slower():
    config = preset("llama-3.2-1b")
    few = sampling_seconds(config, 1, 1, 100, 10**6, peak=1e15, bandwidth=1e12)
    weights = 2 * parameter_count(config)
    assert few == pytest.approx(100 * (weights + 51 * kv_cache_bytes(config)) / 1e12, rel=1e-3)
    assert sampling_seconds(config, 1000, 1, 100, 10**6, peak=1e15, bandwidth=1e12) < 10 * few
    computed = sampling_seconds(config, 1000, 1, 100, 10**6, peak=1e12, bandwidth=1e18)
    assert computed > 1000 * 100 * 2 * parameter_count(config) / 1e12
    # half the cache, half of them together, twice the steps
    halved = [sampling_seconds(config, 1000, 28, 100, n, 1e18, 1e12) for n in (128000, 64000)]
    assert 1.1 < halved[1] / halved[0] < 2

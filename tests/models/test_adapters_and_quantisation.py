"""Libraries that replace the model's linear layers find them: PEFT's adapters, quantisers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from llama_align import LlamaHerdForCausalLM
from llama_align.kernels import Linear, plain

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
IDS = torch.arange(30, 42).view(2, 6)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return LlamaHerdForCausalLM(tiny_config(hidden_size=64, intermediate_size=64)).eval()


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [(None, {"q_proj", "v_proj"}), ("all-linear", PROJECTIONS), (["gate_proj"], {"gate_proj"})],
)
def test_lora_finds_its_layers(model, targets, wanted):
    plain_logits = model(IDS).logits
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=targets))
    assert torch.equal(adapted(IDS).logits, plain_logits)  # B starts at zero
    adapted(input_ids=IDS, labels=IDS).loss.backward()
    trained = {name.split(".lora_")[0] for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert {name.rsplit(".", 1)[-1] for name in trained} == wanted
    assert len(trained) == len(wanted) * model.config.num_hidden_layers


def test_a_merged_adapter_leaves_routed_linears_with_the_same_logits(model):
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        wanted = adapted(IDS).logits
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, wanted, atol=1e-4, rtol=1e-4)
    assert type(merged.model.layers[0].mlp.up_proj) is Linear


def test_plain_linears_compute_the_same_under_the_same_names(model):
    before = model(IDS).logits
    assert plain(model) is model
    assert not any(type(module) is Linear for module in model.modules())
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torchao succeeds it
def test_torchs_dynamic_quantisation_replaces_plain_linears(model):
    quantised = torch.ao.quantization.quantize_dynamic(plain(model), {nn.Linear}, dtype=torch.qint8)
    replaced = [name for name, module in quantised.named_modules() if "quantized" in type(module).__module__]
    assert {name.rsplit(".", 1)[-1] for name in replaced} >= PROJECTIONS
    relative = (quantised(IDS).logits - model(IDS).logits).norm() / model(IDS).logits.norm()
    assert relative < 0.1


def test_linears_of_a_quantised_configuration_are_of_the_class_that_quantisers_replace(tiny_config):
    config = tiny_config()
    config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    model = LlamaHerdForCausalLM(config)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_quantises_every_projection(model, tmp_path, bits):
    bnb = pytest.importorskip("bitsandbytes")
    model.save_pretrained(tmp_path / "full")
    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path / "full", quantization_config=settings, device_map="cpu")
    layer = bnb.nn.Linear4bit if bits == 4 else bnb.nn.Linear8bitLt
    replaced = [name for name, module in quantised.named_modules() if isinstance(module, layer)]
    assert len(replaced) == len(PROJECTIONS) * model.config.num_hidden_layers
    with torch.no_grad():
        logits = quantised(IDS).logits
        theirs = LlamaForCausalLM.from_pretrained(
            tmp_path / "full",
            config=LlamaConfig(**model.config.to_dict()),
            quantization_config=settings,
            device_map="cpu",
        )
        torch.testing.assert_close(logits, theirs(IDS).logits)
        quantised.save_pretrained(tmp_path / "quantised")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised", device_map="cpu")
        assert torch.equal(again(IDS).logits, logits)

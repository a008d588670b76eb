"""How a model is spread: tensor, pipeline and FSDP plans, the block that is never split, parts on disk."""

import re
from copy import deepcopy
from fnmatch import translate

import pytest
import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.models.modeling_llama_herd import LlamaHerdDecoderLayer

from .test_against_transformers import ids_of, random_fields, twins

FIELDS = {"num_hidden_layers": 3, "tie_word_embeddings": False, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def pair():
    return twins(random_fields(11) | FIELDS, "sdpa")


def pattern_matches(pattern: str, names: list[str]) -> bool:
    return any(re.fullmatch(translate(pattern), name) for name in names)


@pytest.mark.parametrize("plan", ["_tp_plan", "_pp_plan", "_fsdp_plan"])
def test_plans_are_llamas_and_name_modules_that_exist(pair, plan):
    theirs, ours = pair
    assert getattr(ours, plan) == getattr(theirs, plan)
    names = [name for name, _ in ours.named_modules()]
    assert all(pattern_matches(pattern, names) for pattern in getattr(ours, plan))


def test_every_projection_has_its_place_in_the_tensor_plan(pair):
    ours = pair[1]
    projections = [name for name, module in ours.named_modules() if isinstance(module, nn.Linear)]
    assert projections
    for name in projections:
        style = [kind for pattern, kind in ours._tp_plan.items() if re.fullmatch(translate(pattern), name)]
        assert len(style) == 1
        assert ("rowwise" in style[0]) == (name.rsplit(".", 1)[-1] in ("o_proj", "down_proj"))


class Elsewhere(nn.Identity):
    """A module that another pipeline stage holds, as engines that read the pipeline plan put in its place."""

    def forward(self, *args, **kwargs):
        return args[0] if args else next(iter(kwargs.values()))


def test_stages_cut_by_the_pipeline_plan_give_the_logits_of_the_whole(pair):
    whole = pair[1]
    first, second = deepcopy(whole), deepcopy(whole)
    first.model.layers[2], first.model.norm, first.lm_head = Elsewhere(), Elsewhere(), Elsewhere()
    second.model.embed_tokens, second.model.layers[0], second.model.layers[1] = Elsewhere(), Elsewhere(), Elsewhere()
    ids = ids_of(2, 9)
    with torch.no_grad():
        hidden = first(ids).logits
        torch.testing.assert_close(second(inputs_embeds=hidden).logits, whole(ids).logits)


def test_the_block_that_is_never_split_is_the_one_fsdp_wraps():
    with init_empty_weights():
        model = LlamaHerdForCausalLM(LlamaHerdConfig(**random_fields(11) | FIELDS))
    placed = infer_auto_device_map(
        model, {0: 30_000, "cpu": 10**9}, no_split_module_classes=model._no_split_modules, dtype=torch.float32
    )
    assert not any(re.search(r"layers\.\d+\.", name) for name in placed)
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap", fsdp_version=2)
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] >= {LlamaHerdDecoderLayer}


def test_layers_kept_on_disk_give_the_same_logits_and_tokens(pair, tmp_path):
    model = pair[1]
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "parts"
    )
    assert offloaded.model.layers[1].mlp.up_proj.weight.is_meta
    ids = ids_of(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(offloaded(ids).logits, model(ids).logits)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(offloaded.generate(ids, **options), model.generate(ids, **options))


def test_both_classes_load_a_sharded_checkpoint_of_the_other(pair, tmp_path):
    others = [(LlamaHerdForCausalLM, LlamaHerdConfig), (LlamaForCausalLM, LlamaConfig)]
    ids = ids_of(2, 9)
    for source, (target, config) in zip(pair, others, strict=True):
        source.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        loaded = target.from_pretrained(tmp_path, config=config(**random_fields(11) | FIELDS))
        torch.testing.assert_close(loaded(ids).logits, source(ids).logits, atol=1e-5, rtol=1e-5)

"""Meta's reference model of Llama 3 (the package llama-models) gives the logits that LlamaHerd gives.

How to install it stands in tests/chat/test_meta.py. Without it the tests are skipped.
"""

import pytest
import torch

pytest.importorskip("fairscale.nn.model_parallel", reason="fairscale is not installed")
pytest.importorskip("llama_models.llama3.model", reason="llama-models is not installed")

import fairscale.nn.model_parallel.initialize as parallel
from llama_models.llama3.args import ModelArgs
from llama_models.llama3.model import Transformer

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM

NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 8192}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """fairscale's layers ask for a process group."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    parallel.initialize_model_parallel(1)
    yield
    parallel.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Meta turns neighbours of a head's vector together, transformers its first half with its second."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def metas_weights(model: LlamaHerdForCausalLM) -> dict[str, torch.Tensor]:
    ours, config = model.state_dict(), model.config
    found = {
        "tok_embeddings.weight": ours["model.embed_tokens.weight"],
        "norm.weight": ours["model.norm.weight"],
        "output.weight": ours["lm_head.weight"],
    }
    heads = {"attention.wq": config.num_attention_heads, "attention.wk": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for name, theirs in NAMES.items():
            weight = ours[f"model.layers.{layer}.{name}.weight"]
            weight = interleaved(weight, heads[theirs]) if theirs in heads else weight
            found[f"layers.{layer}.{theirs}.weight"] = weight
    return found


@pytest.mark.parametrize("scaled", [False, True], ids=["llama3", "llama3.1"])
@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
def test_logits_are_metas(one_process, scaled, key_value_heads):
    torch.manual_seed(key_value_heads + 10 * scaled)
    rope = (SCALED if scaled else {"rope_type": "default"}) | {"rope_theta": 500000.0}
    config = LlamaHerdConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=256,
        initializer_range=0.1,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_parameters=rope,
    )
    ours = LlamaHerdForCausalLM(config).eval()
    for name, weight in ours.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    theirs = Transformer(
        ModelArgs(dim=64, n_layers=3, n_heads=4, n_kv_heads=key_value_heads, vocab_size=320, multiple_of=64)
        if not scaled
        else ModelArgs(
            dim=64,
            n_layers=3,
            n_heads=4,
            n_kv_heads=key_value_heads,
            vocab_size=320,
            multiple_of=64,
            use_scaled_rope=True,
        )
    )
    theirs.load_state_dict(metas_weights(ours), strict=True)
    ids_BL = torch.randint(320, (3, 200))
    with torch.no_grad():
        wanted_BLV = theirs(ids_BL, 0)
        found_BLV = ours(ids_BL).logits
    assert wanted_BLV.std() > 0.5, "logits that differ"
    torch.testing.assert_close(found_BLV, wanted_BLV, rtol=0, atol=1e-5)
    print((found_BLV - wanted_BLV).abs().max())
    with torch.no_grad():  # token by token behind a prompt, both with their caches
        prompt = ours(ids_BL[:, :150], use_cache=True)
        theirs(ids_BL[:, :150], 0)
        cache = prompt.past_key_values
        for place in range(150, 155):
            step = ours(ids_BL[:, place : place + 1], past_key_values=cache, use_cache=True).logits
            torch.testing.assert_close(step, theirs(ids_BL[:, place : place + 1], place), rtol=0, atol=1e-5)

"""A LlamaHerd made by hand that finds what it is asked for, as far back as its rotary base lets it look.

Three layers of one head: the last tokens' codes summed up, the newest with most weight; the same of the token before;
and a match of the two, which copies what stood behind the same words. The match compares by the slowest frequencies
alone: they hardly turn over a context while the base is large, and turn the match over while it is small.
"""

import math

import torch

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM

CODE, WIDTH = 64, 320  # of a token's code; of the residual stream and the head
HALF = WIDTH // 2  # a frequency turns a place and the one so much further
OWN, ONE, LAST, BEFORE, FOUND = (slice(0, 64), 64, slice(65, 129), slice(129, 193), slice(193, 257))


def retriever(vocabulary: int, base: float, pad: int = 0, context: int = 512) -> LlamaHerdForCausalLM:
    """The model over a vocabulary, with a rotary base."""
    config = LlamaHerdConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=WIDTH,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaHerdForCausalLM(config)
    codes = torch.randn(vocabulary, CODE, generator=torch.Generator().manual_seed(0))
    codes /= codes.norm(dim=1, keepdim=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, OWN] = codes
        model.model.embed_tokens.weight[:, ONE] = 1.0
        model.lm_head.weight[:, FOUND] = 0.2 * codes
        last, before, match = (layer.self_attn for layer in model.model.layers)
        _near(last, 0.14)
        _near(before, 0.24)
        # of the fastest, which turns by one a token whatever the base, so that the token before is nearest
        before.q_proj.weight[[0, HALF], ONE] = torch.tensor([3.0 * math.cos(1), -3.0 * math.sin(1)])
        before.k_proj.weight[0, ONE] = 1.0
        slow = torch.arange(HALF - CODE // 2, HALF)
        places = torch.cat([slow, slow + HALF])
        match.q_proj.weight[places, torch.arange(LAST.start, LAST.stop)] = 7.0
        match.k_proj.weight[places, torch.arange(BEFORE.start, BEFORE.stop)] = 7.0
        for attention, source, target in ((last, OWN, LAST), (before, LAST, BEFORE), (match, OWN, FOUND)):
            attention.v_proj.weight[:CODE, source] = 0.1 * torch.eye(CODE)
            attention.o_proj.weight[target, :CODE] = torch.eye(CODE)
    return model


def _near(attention, weight: float) -> None:
    """Has every token look at the nearest: the frequencies agree there, and no further on."""
    attention.q_proj.weight[:HALF, ONE] = weight
    attention.k_proj.weight[:HALF, ONE] = weight

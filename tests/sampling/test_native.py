"""The native engine against `generate` and a plain forward pass."""

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from llama_align.models import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.sampling import SamplingParams, make_engine
from llama_align.sampling.native import NativeEngine, why_not_native
from llama_align.sampling.transformers_engine import TransformersEngine

from .conftest import LLAMA3, config, random_prompts

SHAPES = {
    "gqa": {},
    "tied": {"tie_word_embeddings": True},
    "mha": {"num_key_value_heads": 4},
    "mqa, biases": {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    "llama3 rope": {"rope_parameters": LLAMA3},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}},
    "wide heads": {"head_dim": 24},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_generate(shape, penalty):
    torch.manual_seed(1)
    model = LlamaForCausalLM(config(**SHAPES[shape])).eval()
    prompts, stop = random_prompts(50), {3, 5}
    params = SamplingParams(max_new_tokens=24, temperature=0, repetition_penalty=penalty)
    answers = NativeEngine(model, max_cached_tokens=700).generate(prompts, params, stop)
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            repetition_penalty=penalty,
            eos_token_id=sorted(stop),
        )
        assert answer.ids == out[0, len(prompt) :].tolist()
        assert answer.finished == (answer.ids[-1] in stop)
    assert {answer.finished for (answer,) in answers} == {True, False}


@pytest.mark.parametrize("room", [65536, 1500])
def test_greedy_equals_generate_on_many_prompts_over_long_answers(room):
    torch.manual_seed(2)
    fields = config(hidden_size=64, num_hidden_layers=3).to_diff_dict() | {"model_type": "llama_herd"}
    model = LlamaHerdForCausalLM(LlamaHerdConfig(**fields)).eval()
    prompts, stop = random_prompts(200), {3, 5}
    params = SamplingParams(n=2, max_new_tokens=75, temperature=0)
    answers = NativeEngine(model, max_cached_tokens=room).generate(prompts, params, stop)
    by_length = {}
    for prompt, of_prompt in zip(prompts, answers, strict=True):
        by_length.setdefault(len(prompt), []).append((prompt, of_prompt))
    for length, pairs in by_length.items():
        ids = torch.tensor([prompt for prompt, _ in pairs])
        options = {"do_sample": False, "max_new_tokens": 75, "eos_token_id": sorted(stop), "pad_token_id": 0}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, length:].tolist()
        for theirs, (_, of_prompt) in zip(out, pairs, strict=True):
            end = next((i + 1 for i, token in enumerate(theirs) if token in stop), 75)
            assert [answer.ids for answer in of_prompt] == [theirs[:end]] * 2
    lengths = {len(answer.ids) for of_prompt in answers for answer in of_prompt}
    assert len(lengths) > 30, "answers end all along the way"
    assert 75 in lengths


def test_same_answers_alone_in_a_batch_and_in_a_tiny_cache(model):
    prompts, stop = random_prompts(64), {3, 5, 8, 13}
    params = SamplingParams(n=3, max_new_tokens=20, temperature=0.8, top_p=0.9, seed=7)
    keys = [1000 + 17 * i for i in range(64)]
    together = NativeEngine(model).generate(prompts, params, stop, keys=keys)
    for budget in (1, 60, 500):
        tiny = NativeEngine(model, max_cached_tokens=budget).generate(prompts, params, stop, keys=keys)
        assert ids_of(tiny) == ids_of(together)
    for i in range(64):
        alone = NativeEngine(model).generate([prompts[i]], params, stop, keys=[keys[i]])
        assert ids_of(alone) == ids_of(together[i : i + 1])
    backwards = NativeEngine(model).generate(prompts[::-1], params, stop, keys=keys[::-1])
    assert ids_of(backwards) == ids_of(together)[::-1]


def test_llama_herd_answers_as_llama_does(model):
    herd = LlamaHerdForCausalLM(LlamaHerdConfig(**model.config.to_diff_dict() | {"model_type": "llama_herd"}))
    herd.load_state_dict(model.state_dict())
    prompts, params = random_prompts(5), SamplingParams(n=2, max_new_tokens=10, top_p=0.9)
    engine = make_engine("auto", herd)
    assert isinstance(engine, NativeEngine)
    assert ids_of(engine.generate(prompts, params, {3})) == ids_of(NativeEngine(model).generate(prompts, params, {3}))


def test_fewer_answers_are_the_first_of_more(model):
    prompts = random_prompts(4)
    few, many = (NativeEngine(model).generate(prompts, SamplingParams(n=n, max_new_tokens=8), set()) for n in (2, 5))
    assert [ids[:2] for ids in ids_of(many)] == ids_of(few)
    assert len({tuple(ids) for answers in ids_of(many) for ids in answers}) == 20, "every answer is its own draw"


def test_seed_and_key_change_the_draw(model):
    def draw(seed, key):
        return ids_of(
            NativeEngine(model).generate([[4, 5]], SamplingParams(max_new_tokens=8, seed=seed), set(), keys=[key])
        )

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(1, 0)
    assert draw(0, 0) != draw(0, 1)
    assert draw(0, -1) == draw(0, 2**64 - 1), "keys count modulo 2**64"


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_logprobs_are_those_of_the_unwarped_model(model, temperature):
    prompts = random_prompts(6)
    params = SamplingParams(n=4, max_new_tokens=30, temperature=temperature, top_p=0.8, repetition_penalty=1.1)
    for engine in (NativeEngine(model), TransformersEngine(model)):
        for prompt, answers in zip(prompts, engine.generate(prompts, params, {3, 5, 8}), strict=True):
            for answer in answers:
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1]
                expected = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
                assert torch.tensor(answer.logprobs) == pytest.approx(expected, abs=1e-4)


def test_an_answer_ends_with_its_first_terminator(model):
    stop = {3, 5, 8, 13, 21, 34, 55, 89}
    params = SamplingParams(n=16, max_new_tokens=12)
    for engine in (NativeEngine(model), TransformersEngine(model)):
        answers = [a for answers in engine.generate(random_prompts(8), params, stop) for a in answers]
        for answer in answers:
            assert answer.finished == (answer.ids[-1] in stop)
            assert not stop.intersection(answer.ids[:-1])
            assert answer.finished or len(answer.ids) == 12
            assert len(answer.logprobs) == len(answer.ids)
        assert {answer.finished for answer in answers} == {True, False}


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    for engine in (NativeEngine(model), TransformersEngine(model)):
        engine.generate([[4]], SamplingParams(max_new_tokens=3), set())
        assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_live_weights_are_read(model):
    engine, params = NativeEngine(model), SamplingParams(max_new_tokens=6, temperature=0)
    before = ids_of(engine.generate([[4, 5]], params, set()))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    after = ids_of(engine.generate([[4, 5]], params, set()))
    assert after != before
    assert after == ids_of(NativeEngine(model).generate([[4, 5]], params, set()))


def test_bfloat16_and_adapters(model):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    params, prompts = SamplingParams(max_new_tokens=8, temperature=0), random_prompts(4)
    answers = NativeEngine(adapted).generate(prompts, params, set())
    merged = adapted.merge_and_unload()
    assert ids_of(answers) == ids_of(NativeEngine(merged).generate(prompts, params, set()))
    half = NativeEngine(merged.bfloat16()).generate(prompts, SamplingParams(n=2, max_new_tokens=8), set())
    assert all(len(answer.ids) == 8 for answers in half for answer in answers)


def test_inside_data_parallel(model, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        params, prompts = SamplingParams(n=2, max_new_tokens=6), random_prompts(3)
        assert ids_of(NativeEngine(wrapped).generate(prompts, params, {3})) == ids_of(
            NativeEngine(model).generate(prompts, params, {3})
        )
    finally:
        torch.distributed.destroy_process_group()


def test_it_runs_inside_autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        answers = NativeEngine(model).generate(random_prompts(4), SamplingParams(n=2, max_new_tokens=8), {3})
    assert all(answer.finished or len(answer.ids) == 8 for of_prompt in answers for answer in of_prompt)


def test_progress_is_shown_only_when_asked(model, capsys):
    NativeEngine(model).generate([[4]], SamplingParams(n=2, max_new_tokens=4), set(), progress=True)
    assert "2/2" in capsys.readouterr().err
    NativeEngine(model).generate([[4]], SamplingParams(n=2, max_new_tokens=4), set())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_prompts_that_cannot_be_answered_are_named(model, engine):
    engine, params = make_engine(engine, model), SamplingParams(max_new_tokens=200)
    assert engine.generate([], params, set()) == []
    with pytest.raises(ValueError, match=r"prompt 1 has 57 tokens.*max_new_tokens=200.*context of 256"):
        engine.generate([[4], [4] * 57], params, set())
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        engine.generate([[]], params, set())
    with pytest.raises(ValueError, match="prompt 0 has an id outside the vocabulary of 97"):
        engine.generate([[97]], params, set())
    with pytest.raises(ValueError, match="keys has 1 entries for 2 prompts"):
        engine.generate([[4], [5]], params, set(), keys=[1])


def test_engines_are_chosen_by_shape(model):
    assert isinstance(make_engine("auto", model), NativeEngine)
    assert make_engine("native", model, max_cached_tokens=5).max_cached_tokens == 5
    other = MistralForCausalLM(
        MistralConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    )
    assert isinstance(make_engine("auto", other), TransformersEngine)
    with pytest.raises(ValueError, match="cannot run this model: the model is of type mistral"):
        make_engine("native", other)
    with pytest.raises(ValueError, match="engine must be one of auto, native, transformers, vllm, found 'sglang'"):
        make_engine("sglang", model)
    with pytest.raises(ValueError, match="the auto engine takes a loaded model, found a str"):
        make_engine("auto", "path/of/a/checkpoint")
    with pytest.raises(ValueError, match="max_cached_tokens must be at least 1, found 0"):
        make_engine("native", model, max_cached_tokens=0)
    dynamic = LlamaForCausalLM(config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
    assert "rope type dynamic" in why_not_native(dynamic)
    assert "no language-modelling head" in why_not_native(model.model)


def ids_of(answers):
    return [[answer.ids for answer in of_prompt] for of_prompt in answers]

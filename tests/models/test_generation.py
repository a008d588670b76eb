"""`generate` in every mode: what Llama generates from the same weights, and what greedy decoding says it must be."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CompileConfig, ContinuousBatchingConfig, GenerationConfig, pipeline

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, LlamaHerdForTokenClassification

from .test_against_transformers import ids_of, random_fields, twins

FIELDS = {"max_position_embeddings": 64, "num_hidden_layers": 2}
MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "min-p sampling": {"do_sample": True, "min_p": 0.05, "num_return_sequences": 2},
    "penalised": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7},
    "sampled beams": {"do_sample": True, "num_beams": 3, "num_return_sequences": 3},
    "without a cache": {"do_sample": False, "use_cache": False},
    "static cache": {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
    "beams in a static cache": {"num_beams": 2, "cache_implementation": "static", "disable_compile": True},
    "offloaded cache": {"do_sample": False, "cache_implementation": "offloaded"},
    "chunked prefill": {"do_sample": False, "prefill_chunk_size": 3},
    "ending early": {"do_sample": False, "eos_token_id": list(range(1, 40))},
}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def models(request):
    return twins(random_fields(11) | FIELDS, request.param)


def prompts(*lengths: int) -> dict:
    """Left-padded prompts of these lengths."""
    longest = max(lengths)
    mask = torch.stack([(torch.arange(longest) >= longest - length).long() for length in lengths])
    return {"input_ids": ids_of(len(lengths), longest) * mask, "attention_mask": mask}


def generated(model, batch: dict, **options) -> torch.Tensor:
    torch.manual_seed(0)
    return model.generate(**batch, **{"max_new_tokens": 12, "pad_token_id": 0} | options)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_generates_what_llama_generates(models, mode):
    if mode == "offloaded cache" and not torch.cuda.is_available():
        pytest.skip("the cache is offloaded from a GPU")
    theirs, ours = models
    batch = prompts(8, 5, 2)
    found = generated(ours, batch, **MODES[mode])
    assert torch.equal(found, generated(theirs, batch, **MODES[mode]))
    assert found.shape[1] <= 20


@pytest.mark.parametrize("mode", ["without a cache", "static cache", "chunked prefill"])
def test_how_the_cache_is_kept_changes_no_token(models, mode):
    _, model = models
    batch = prompts(8, 5, 2)
    assert torch.equal(generated(model, batch, **MODES[mode]), generated(model, batch, do_sample=False))


def test_a_compiled_decoding_step_generates_the_same(models):
    _, model = models
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True  # transformers compiles on accelerators alone
    options = {"cache_implementation": "static", "compile_config": config, "do_sample": False}
    batch = prompts(8, 5)
    wanted = generated(model, batch, do_sample=False)
    assert torch.equal(generated(model, batch, **options), wanted)
    assert len(graphs) == 1  # for every step


def test_padding_changes_no_token(models):
    _, model = models
    batch = prompts(8, 5, 2)
    together = generated(model, batch, do_sample=False)[:, 8:]
    for row, length in enumerate((8, 5, 2)):
        alone = {key: value[row : row + 1, 8 - length :] for key, value in batch.items()}
        assert torch.equal(generated(model, alone, do_sample=False)[0, length:], together[row])


def test_embeddings_as_the_prompt_generate_the_same(models):
    _, model = models
    batch = prompts(8, 5)
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
    }
    wanted = generated(model, batch, do_sample=False)[:, 8:]
    assert torch.equal(generated(model, embedded, do_sample=False), wanted)


@pytest.mark.parametrize("assistant", ["itself", "a smaller model", "prompt lookup", "its first layer"])
def test_speculation_changes_no_token(models, assistant):
    _, model = models
    batch = prompts(8)
    options = {
        "itself": lambda: {"assistant_model": model},
        "a smaller model": lambda: {"assistant_model": twins(random_fields(11) | FIELDS | {"num_hidden_layers": 1})[1]},
        "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3},
        "its first layer": lambda: {"assistant_early_exit": 1},
    }[assistant]()
    wanted = generated(model, batch, do_sample=False)
    assert torch.equal(generated(model, batch, do_sample=False, **options), wanted)


def test_speculation_with_sampling_is_llamas(models):
    theirs, ours = models
    options = {"do_sample": True, "temperature": 0.7, "assistant_model": theirs}
    assert torch.equal(generated(ours, prompts(8), **options), generated(theirs, prompts(8), **options))


def test_a_turn_goes_on_from_the_cache_of_the_last(models):
    _, model = models
    first = generated(model, prompts(8), do_sample=False, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, ids_of(1, 4, seed=5)], 1)
    turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wanted = generated(model, turn, do_sample=False)
    assert torch.equal(generated(model, turn, do_sample=False, past_key_values=first.past_key_values), wanted)


def test_scores_logits_and_states_of_every_step(models):
    _, model = models
    asked = {"output_scores": True, "output_logits": True, "output_hidden_states": True}
    if model.config._attn_implementation == "eager":
        asked["output_attentions"] = True
    out = generated(model, prompts(6, 6), do_sample=False, return_dict_in_generate=True, **asked)
    with torch.no_grad():
        logits = model(out.sequences[:, :-1]).logits[:, 5:]
    torch.testing.assert_close(torch.stack(out.logits, 1), logits, atol=1e-5, rtol=0)
    assert [len(step) for step in out.hidden_states] == [3] * 12
    if "output_attentions" in asked:
        assert [step[0].shape[-1] for step in out.attentions] == list(range(6, 18))


@pytest.mark.parametrize("attention", ["paged|eager", "paged|sdpa"])
def test_continuous_batching_generates_what_each_prompt_alone_does(attention):
    _, model = twins(random_fields(11) | FIELDS, "eager")
    asked = [ids_of(1, length, seed=length)[0].tolist() for length in (8, 5, 2, 11)]
    wanted = [
        generated(model, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}, do_sample=False)
        for ids in asked
    ]
    model.set_attn_implementation(attention)
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
    blocks = ContinuousBatchingConfig(block_size=32, num_blocks=16, max_batch_tokens=32)
    found = model.generate_batch(inputs=asked, generation_config=config, continuous_batching_config=blocks)
    answers = sorted(found.values(), key=lambda output: asked.index(output.prompt_ids))
    for ids, row, output in zip(asked, wanted, answers, strict=True):
        assert output.error is None
        assert output.generated_tokens == row[0, len(ids) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_text_generation_pipeline(tmp_path, tiny_config, tokenizer, batch_size):
    torch.manual_seed(0)
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = pipeline("text-generation", model=str(tmp_path), device="cpu")
    assert type(generator.model) is LlamaHerdForCausalLM
    texts = ["ba do ki", "lu", "me no ra si te"]
    options = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    found = [row[0]["generated_text"] for row in generator(texts, batch_size=batch_size, **options)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for text, answer in zip(texts, found, strict=True):
        batch = tokenizer(text, return_tensors="pt")
        ids = generated(model, dict(batch), max_new_tokens=6, do_sample=False)[0, batch["input_ids"].shape[1] :]
        assert answer == tokenizer.decode(ids, skip_special_tokens=True)


def test_the_pipelines_of_the_classifiers(tiny_config, tokenizer):
    torch.manual_seed(0)
    scorer = pipeline("text-classification", LlamaHerdForSequenceClassification(tiny_config()), tokenizer=tokenizer)
    assert {row["label"] for row in scorer(["ba do", "ki lu me no"], batch_size=2)} <= {"LABEL_0", "LABEL_1"}
    tagger = pipeline("token-classification", LlamaHerdForTokenClassification(tiny_config()), tokenizer=tokenizer)
    assert len(tagger("ba do ki")) == len(tokenizer("ba do ki", add_special_tokens=False)["input_ids"])

"""The engine over `generate`: random streams by key, bounded batches, nothing of the checkpoint's own settings."""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from llama_align.sampling import SamplingParams
from llama_align.sampling.transformers_engine import TransformersEngine

from .conftest import VOCABULARY, random_prompts

PARAMS = SamplingParams(n=4, max_new_tokens=8, seed=3)


def ids_of(answers):
    return [[answer.ids for answer in of_prompt] for of_prompt in answers]


def test_keys_name_the_random_streams(model):
    engine, prompts = TransformersEngine(model), random_prompts(3)
    drawn = [ids_of(engine.generate(prompts, PARAMS, set(), keys=keys)) for keys in ([5, 6, 7], [5, 6, 8], [5, 6, 7])]
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]
    assert ids_of(engine.generate(prompts, PARAMS, set())) == ids_of(
        engine.generate(prompts, PARAMS, set(), keys=range(3))
    )
    # shards of the same prompts with keys that go on: no two answers alike
    rows = [tuple(ids) for of_prompt in [*drawn[0], *drawn[1]] for ids in of_prompt]
    assert len({*rows}) == 24


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batches_stay_within_the_bound(model, temperature, monkeypatch):
    shapes = []
    generate = model.generate

    def watched(ids_NL, **kwargs):
        count = kwargs["generation_config"].num_return_sequences
        shapes.append((len(ids_NL) * count, ids_NL.shape[1]))
        return generate(ids_NL, **kwargs)

    monkeypatch.setattr(model, "generate", watched)
    params = SamplingParams(n=7, max_new_tokens=8, temperature=temperature)
    answers = TransformersEngine(model, max_cached_tokens=60).generate([[4] * 12, [5] * 20, [6]], params, set())
    assert [len(of_prompt) for of_prompt in answers] == [7, 7, 7]
    assert all(rows * (length + 8) <= 60 for rows, length in shapes)
    if temperature:
        # rows of 28, 20 and 9 tokens
        assert shapes == [(2, 20)] * 3 + [(1, 20)] + [(3, 12)] * 2 + [(1, 12)] + [(6, 1), (1, 1)]
        assert len({tuple(answer.ids) for of_prompt in answers for answer in of_prompt}) == 21, "one stream per batch"
    with pytest.raises(ValueError, match="max_cached_tokens must be at least 1, found 0"):
        TransformersEngine(model, max_cached_tokens=0)


def test_a_checkpoints_own_settings_play_no_part(model):
    prompts = random_prompts(2)
    before = ids_of(TransformersEngine(model).generate(prompts, PARAMS, set()))
    own = model.generation_config
    own.min_p, own.no_repeat_ngram_size, own.suppress_tokens = 0.9, 1, list(range(VOCABULARY - 1))
    assert ids_of(TransformersEngine(model).generate(prompts, PARAMS, set())) == before
    assert model.generation_config is own
    assert (own.min_p, own.no_repeat_ngram_size) == (0.9, 1)


def test_a_model_without_positions_has_no_limit():
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2)).eval()
    assert not hasattr(model.config, "max_position_embeddings")
    (answers,) = TransformersEngine(model).generate([[4] * 30], SamplingParams(n=2, max_new_tokens=4), set())
    assert [len(answer.ids) for answer in answers] == [4, 4]


def test_progress_in_tokens_per_second(model, capsys):
    TransformersEngine(model).generate([[4], [5]], PARAMS, set(), progress=True)
    shown = capsys.readouterr().err
    assert "8/8" in shown
    assert "tokens/s" in shown

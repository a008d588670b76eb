"""Likelihoods of continuations against the model's own logits, one at a time; texts that end at strings."""

import random

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from llama_align import LlamaHerdForCausalLM
from llama_align.sampling.continuations import likelihoods
from llama_align.sampling.engine import SamplingParams
from llama_align.sampling.native import NativeEngine
from llama_align.sampling.stopping import texts_until

_draw = random.Random(5)


def ids(length: int) -> list[int]:
    return [_draw.randrange(1, 97) for _ in range(length)]


SHOTS = ids(40)  # examples before every question
QUESTIONS = [[*SHOTS, *ids(9)] for _ in range(4)] + [ids(20), ids(3), [5]]
ROWS = [([*q, *answer], len(q)) for q in QUESTIONS for answer in ([7], [8], ids(3), [7, 9, 11])]


def one_by_one(model, row: list[int], given: int) -> tuple[float, bool]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row])).logits[0, given - 1 : -1].double()
    targets = torch.tensor(row[given:])
    return -F.cross_entropy(logits, targets, reduction="sum").item(), bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize("max_tokens", [1, 64, 8192])
@pytest.mark.parametrize("kind", ["llama", "herd", "other"])
def test_what_is_shared_changes_nothing(kind, max_tokens, model, tiny_config):
    torch.manual_seed(0)
    if kind == "herd":
        model = LlamaHerdForCausalLM(tiny_config(vocab_size=97, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()
    elif kind == "other":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4)
        ).eval()
    found = likelihoods(model, [row for row, _ in ROWS], [given for _, given in ROWS], max_tokens)
    for (row, given), one in zip(ROWS, found, strict=True):
        total, greedy = one_by_one(model, row, given)
        assert one.total == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert one.greedy == greedy


def test_the_greedy_continuation_is_known(model):
    (answer,) = NativeEngine(model).generate([SHOTS], SamplingParams(1, 5, 0.0), set())[0]
    (greedy, other) = likelihoods(model, [SHOTS + answer.ids, SHOTS + answer.ids[:4] + [1]], [40, 40])
    assert greedy.greedy
    assert greedy.total == pytest.approx(sum(answer.logprobs), abs=1e-4)
    assert not other.greedy


def test_a_sequence_that_predicts_nothing_is_refused(model):
    assert likelihoods(model, [], []) == []
    for given in (0, 3):
        with pytest.raises(ValueError, match=f"sequence 0: found {given} of 3 tokens given"):
            likelihoods(model, [[1, 2, 3]], [given])


class Letters:
    """A tokenizer whose ids are characters."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(i) for i in ids)


def test_a_text_ends_before_the_first_stop_string_and_is_drawn_no_further(model):
    engine = NativeEngine(model)
    prompts = [ids(6), ids(4)]
    params = SamplingParams(1, 90, 0.0)
    whole = [Letters().decode(group[0].ids) for group in engine.generate(prompts, params, set())]
    stops = [[whole[0][10:13], whole[0][50:60]], ["never"]]
    drawn = []
    generate = engine.generate

    def counted(asked, params, stop_ids, keys=None):
        drawn.append((len(asked), params.max_new_tokens))
        return generate(asked, params, stop_ids, keys=keys)

    engine.generate = counted
    first, second = texts_until(engine, Letters(), prompts, stops, params, set())
    assert first == whole[0][: whole[0].index(stops[0][0])]
    assert second == whole[1]
    assert drawn == [(2, 32), (1, 58)]  # 64 would be one more than there is room for
    end = ord(whole[1][40])
    assert texts_until(engine, Letters(), prompts[1:], [[]], params, {end}) == [whole[1][: whole[1].index(chr(end))]]
    with pytest.raises(ValueError, match="n: found 2"):
        texts_until(engine, Letters(), prompts, stops, SamplingParams(2), set())

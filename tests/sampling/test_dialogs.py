"""Dialogs in, texts out: what `DialogSampler` makes of the engine's ids."""

import pytest
import torch

from llama_align import LlamaHerdForCausalLM
from llama_align.chat import ControlTokens, encode_answer, render_prompt
from llama_align.sampling import Answer, DialogSampler, SamplingParams

DIALOGS = [
    [{"role": "user", "content": "bado kilu?"}],
    [{"role": "system", "content": "me"}, {"role": "user", "content": "nora <|eot_id|> site"}],
    [{"role": "user", "content": "vuzo"}, {"role": "assistant", "content": "qui"}, {"role": "user", "content": "lu"}],
]


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return LlamaHerdForCausalLM(tiny_config()).eval()


@pytest.fixture
def sampler(model, tokenizer):
    return DialogSampler(model, tokenizer)


class Canned:
    """An engine that answers what it is told and keeps what it was asked."""

    def __init__(self, *answers: Answer):
        self.answers = list(answers)

    def generate(self, prompts, params, stop_ids, progress=False, keys=None):
        self.prompts, self.stop_ids, self.keys = prompts, stop_ids, keys
        return [self.answers for _ in prompts]


def test_texts_ends_and_lengths(sampler, tokenizer):
    tokens = ControlTokens.of(tokenizer)
    content = encode_answer(tokenizer, "bado kilu", finished=False)
    endings = {"eot": tokens.eot, "eom": tokens.eom, "eos": tokens.eos}
    sampler.engine = Canned(
        *(Answer([*content, end], [-0.5] * (len(content) + 1), True) for end in endings.values()),
        Answer(content, [-0.5] * len(content), False),
        Answer([tokens.eot], [-2.0], True),
        Answer(
            [tokens.ids["<|start_header_id|>"], *content, tokens.pad, tokens.eot], [-1.0] * (len(content) + 3), True
        ),
    )
    ((*ended, cut, empty, strange),) = sampler(DIALOGS[:1], SamplingParams(n=6))
    for draft in ended:
        assert (draft.text, draft.finished, draft.tokens) == ("bado kilu", True, len(content) + 1)
    assert (cut.text, cut.finished, cut.tokens) == ("bado kilu", False, len(content))
    assert (empty.text, empty.finished, empty.tokens) == ("", True, 1)
    assert strange.text == "bado kilu", "no control token in a text"
    waits = {"role": "assistant", "content": "bado kilu", "end": "eom"}
    assert [draft.answer for draft in ended] == ["bado kilu", waits, "bado kilu"]
    assert sampler.engine.stop_ids == set(endings.values())


def test_the_engine_gets_the_contracts_ids(sampler, tokenizer):
    sampler.engine = Canned(Answer([1], [-1.0], False))
    sampler(DIALOGS, SamplingParams(), keys=[7, 8, 9])
    assert sampler.engine.prompts == [render_prompt(tokenizer, dialog) for dialog in DIALOGS]
    assert sampler.engine.keys == [7, 8, 9]


def test_one_group_per_prompt_in_order_whatever_is_asked_beside_it(sampler):
    params = SamplingParams(n=3, max_new_tokens=12, seed=5)
    together = sampler(DIALOGS, params)
    assert [len(group) for group in together] == [3, 3, 3]
    for i, dialog in enumerate(DIALOGS):
        ((*alone,),) = sampler([dialog], params, keys=[i])
        assert [(d.text, d.finished, d.tokens) for d in alone] == [(d.text, d.finished, d.tokens) for d in together[i]]
    assert sampler([], params) == []


def test_an_answer_at_the_limit_is_cut(sampler):
    drafts = [d for group in sampler(DIALOGS, SamplingParams(n=40, max_new_tokens=30, seed=1)) for d in group]
    assert {d.finished for d in drafts} == {True, False}
    for draft in drafts:
        assert draft.tokens == 30 or draft.finished

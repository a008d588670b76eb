"""Middles between prefix and suffix: the prompt that is sampled from, where it ends, and the text it gives."""

import pytest

from llama_align.chat import InfillingTokens, Split, encode_infilled
from llama_align.data import tokens_of
from llama_align.sampling import Answer, Infiller, SamplingParams, infilling


class Scripted:
    """An engine that answers with the ids it is given."""

    def __init__(self, ids: list[int]):
        self.ids, self.prompts, self.stops = ids, None, None

    def generate(self, prompts, params, stop_ids):
        self.prompts, self.stops = prompts, stop_ids
        return [[Answer(self.ids, [0.0] * len(self.ids), True)] * params.n for _ in prompts]


@pytest.mark.parametrize("suffix_first", [False, True])
def test_a_gap_is_asked_for_as_it_was_trained(tokenizer, monkeypatch, suffix_first):
    tokens, around = InfillingTokens.of(tokenizer), tokens_of(tokenizer)
    (document,) = encode_infilled(tokenizer, [Split("ba do", " ki 12", " lu.", suffix_first)], tokens)
    middle = len(document) - len(encode_infilled(tokenizer, [Split("", "", " ki 12")], tokens)[0]) + 3
    engine = Scripted(document[middle:])
    monkeypatch.setattr(infilling, "make_engine", lambda *_, **__: engine)
    filled = Infiller(None, tokenizer)([("ba do", " lu.")], SamplingParams(n=2), suffix_first)
    assert engine.prompts == [[around.bos, *document[:middle]]]
    assert engine.stops == {tokens.end, around.eos}
    assert [(one.text, one.finished) for one in filled[0]] == [(" ki 12", True)] * 2

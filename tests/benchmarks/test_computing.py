"""Two processes, here threads, compute what one does."""

import random
from queue import Queue
from threading import Barrier, Thread

import pytest
import torch
from transformers import AutoTokenizer

from llama_align import LlamaHerdForCausalLM
from llama_align.benchmarks import computing
from llama_align.benchmarks.computing import Computing
from llama_align.recipe.engines import EngineSettings
from llama_align.runtime.processes import ALONE, Group
from llama_align.sampling.engine import SamplingParams

STATE = {"said": Queue(), "parts": [None, None], "barrier": Barrier(2)}


class Threads(Group):
    """A group whose processes are threads."""

    def heard(self, said=None):
        if not self.is_main:
            return STATE["said"].get(timeout=60)
        STATE["said"].put(said)
        return said

    def joined(self, part):
        STATE["parts"][self.index] = part
        STATE["barrier"].wait(60)
        found = [None] * sum(map(len, STATE["parts"]))
        for index, own in enumerate(STATE["parts"]):
            found[index::2] = own
        STATE["barrier"].wait(60)
        return found


def test_what_two_compute_is_what_one_computes(tmp_path, tiny_config, tokenizer, monkeypatch):
    monkeypatch.setattr(computing, "BLOCK", 3)
    torch.manual_seed(0)
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = [
        Computing(str(tmp_path), AutoTokenizer.from_pretrained(tmp_path), EngineSettings(), group)
        for group in (ALONE, Threads(0, 2), Threads(1, 2))
    ]
    draw = random.Random(0)
    ids = [[draw.randrange(1, 200) for _ in range(draw.randint(3, 30))] for _ in range(20)]
    rows = [(one, len(one) // 2) for one in ids]
    asked = [(one, ["ba"], key) for key, one in enumerate(ids[:5])]
    alone, main, other = made
    expected = alone.likelihoods(rows), alone.texts(asked, SamplingParams(1, 6, 1.0), [tokenizer.eos_token_id])
    thread = Thread(target=other.serve)
    thread.start()
    found = main.likelihoods(rows), main.texts(asked, SamplingParams(1, 6, 1.0), [tokenizer.eos_token_id])
    main.done()
    thread.join(60)
    assert not thread.is_alive()
    assert [one.total for one in found[0]] == pytest.approx([one.total for one in expected[0]], rel=1e-5)
    assert found[1] == expected[1]

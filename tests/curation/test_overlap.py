"""Items of a benchmark that share 13 words with a text that was trained on."""

import numpy as np
import pytest

pytest.importorskip("xxhash")

from llama_align.curation.decontaminate import Overlap

WORDS = [f"w{i}" for i in range(60)]


def test_items_that_share_thirteen_words_or_all_of_eight_are_found():
    items = [
        {"question": " ".join(WORDS[:20]), "choices": ["a", "b"]},
        {"question": " ".join(WORDS[20:32]), "choices": ["yes"]},  # twelve words: all of them
        {"question": " ".join(WORDS[32:39])},  # seven say nothing
        {"question": "other " + " ".join(WORDS[:20])},  # as the first, which another item does not hide
        {"question": "quite " * 20},
    ]
    overlap = Overlap(items)
    overlap.read(["and then " + " ".join(WORDS[5:17])])
    assert not overlap.found.any()
    overlap.read(["And then, " + ", ".join(WORDS[5:18]).upper() + "!"])
    assert overlap.found.tolist() == [True, False, False, True, False]
    overlap.read([" ".join(WORDS[20:40])])
    assert overlap.found.tolist() == [True, True, False, True, False]
    empty = Overlap([])
    empty.read(["any text"])
    assert empty.found.tolist() == np.zeros(0, bool).tolist()

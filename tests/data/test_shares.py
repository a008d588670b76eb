"""Mixes in shares of tokens."""

from collections import Counter

from llama_align.data.shares import shuffled_words, tokens_in_shares

SOURCES = {"a": [[1] * 7] * 10, "b": [[2] * 30] * 4, "c": [[3] * 5]}


def test_shares_are_of_tokens_and_exact():
    drawn = tokens_in_shares(SOURCES, {"a": 0.5, "b": 0.25, "c": 0.25}, 200, "0")
    taken = Counter()
    for name, _, tokens in drawn:
        taken[name] += tokens
    assert taken == {"a": 100, "b": 50, "c": 50}
    times = Counter(number for name, number, _ in drawn if name == "a")
    assert max(times.values()) - min(times.values()) <= 1  # each once before any again
    assert drawn == tokens_in_shares(SOURCES, {"a": 0.5, "b": 0.25, "c": 0.25}, 200, "0")
    assert drawn != tokens_in_shares(SOURCES, {"a": 0.5, "b": 0.25, "c": 0.25}, 200, "1")


def test_a_share_of_nothing_draws_nothing():
    assert {name for name, *_ in tokens_in_shares(SOURCES, {"a": 1.0, "b": 0.0}, 50, "0")} == {"a"}


def test_shuffled_words_are_the_same_words():
    text = "one two three four five six seven eight"
    assert sorted(shuffled_words(text, 0).split()) == sorted(text.split())
    assert shuffled_words(text, 0) != text
    assert shuffled_words(text, 0) == shuffled_words(text, 0)

"""Order as functions of numbers: permutations, shares, epochs."""

import itertools

import pytest

from llama_align.pretraining.order import Blocks, permuted, shared_out, whole_shares


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 64, 1000])
def test_a_permutation_reaches_everything_once(size):
    found = [permuted(i, size, "a") for i in range(size)]
    assert sorted(found) == list(range(size))
    if size > 16:
        assert found != [permuted(i, size, "b") for i in range(size)]
        assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(found)) < size / 4


def test_shares_are_kept_at_every_row_and_one_row_more_is_one_sources_more():
    shares = whole_shares([0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02])  # Llama 1
    assert shares == (134, 30, 9, 9, 9, 5, 4)
    before = shared_out(0, shares)
    for rows in range(1, 4001):
        after = shared_out(rows, shares)
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0] * 6 + [1]
        assert sum(after) == rows
        assert all(abs(n - rows * share / 200) < 1.5 for n, share in zip(after, shares, strict=True))
        before = after


def test_a_source_without_a_share_is_never_read():
    assert shared_out(1001, (0, 3, 0, 1, 0)) == [0, 751, 0, 250, 0]


def test_an_epoch_reads_every_block_once_whatever_the_lengths_of_rows():
    blocks = Blocks("books", 1000, 64, seed=3)
    # a stage of rows of 32 that ends within the second epoch, then one of 64
    first, second = 40, 20
    starts = [(*blocks.place(n, 32, 0, first), 32) for n in range(first)]
    starts += [(*blocks.place(n, 64, first // 2, first // 2 + second), 64) for n in range(first // 2, 40)]
    for epoch in (0, 1):
        spans = [(start, length) for found, start, length in starts if found == epoch]
        tokens = sorted(token for start, length in spans for token in range(start, start + length))
        assert len(tokens) == len(set(tokens)) == 15 * 64
    assert [epoch for epoch, _, _ in starts[:first]] == [0] * 30 + [1] * 10
    offsets = {min(start for found, start, _ in starts if found == epoch) for epoch in (0, 1)}
    assert len(offsets) == 2, "what is left over of whole blocks is another part in every epoch"
    assert blocks.place(7, 32, 0, first) == starts[7][:2]
    assert Blocks("books", 1000, 64, seed=4).place(7, 32, 0, first) != starts[7][:2]

"""Attention by segments against the dense mask: outputs and gradients, documents and shared prompts, every kernel."""

import random

import pytest
import torch

from llama_align.kernels import Segments, attention, segment_attention, segment_attention_reference
from llama_align.kernels.attention import _by_segment
from llama_align.kernels.segments import ROOT

KERNELS = {
    "short in batches, long in blocks": {"routed": lambda: True},
    "short in batches, long by flash": {"routed": lambda: False},
    "all in blocks": {"routed": lambda: True, "is_short": lambda *_: False},
    "all by flash": {"routed": lambda: False, "is_short": lambda *_: False},
    "segment by segment, as on a GPU": {"_on_cpu": _by_segment},
}


@pytest.fixture(params=sorted(KERNELS))
def kernel(request, monkeypatch):
    attention._by_length.cache_clear()
    for name, value in KERNELS[request.param].items():
        monkeypatch.setattr(attention, name, value)
    yield
    attention._by_length.cache_clear()


LAYOUTS = {
    "one": Segments.documents([9]),
    "documents": Segments.documents([1, 7, 2, 30, 5]),
    "pair": Segments.groups([(8, [3, 5])]),
    "groups": Segments.groups([(1, [1]), (20, [6, 1, 9]), (4, [2, 2])]),
    "mixed": Segments((4, 3, 5, 2, 6, 1, 9), (ROOT, 0, ROOT, 2, 2, ROOT, ROOT)),
    "short and long": Segments.groups([(7, [2, 3]), (200, [90, 4]), (5, []), (150, []), (40, [30])]),
    "longer than a block of the kernel": Segments.groups([(600, [70, 530]), (35, [3])]),
}


def inputs(rows: int, tokens: int, heads: int, keys: int, size: int, dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        # laid out as projections leave them, [B, T, heads, H]
        drawn = torch.randn(rows, tokens, count, size, generator=generator, dtype=torch.float64).to(dtype)
        return drawn.transpose(1, 2).requires_grad_()

    return draw(heads), draw(keys), draw(keys)


def gradients(function, tensors, *arguments):
    out = function(*tensors, *arguments)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return out, torch.autograd.grad((out * weights.to(out.dtype)).sum(), tensors)


@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.usefixtures("kernel")
def test_equals_the_dense_mask_in_float64(name, heads, keys):
    segments = LAYOUTS[name]
    tensors = inputs(1, segments.total, heads, keys, 16, torch.float64)
    expected, expected_gradients = gradients(segment_attention_reference, tensors, segments, 0.3)
    found, found_gradients = gradients(segment_attention, tensors, segments, 0.3)
    assert (found - expected).abs().max() < 1e-10
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.usefixtures("kernel")
def test_random_groups_in_several_rows(seed):
    draw = random.Random(seed)
    rows, groups = draw.randint(1, 3), []
    layout = [(draw.randint(1, 9), [draw.randint(1, 9) for _ in range(draw.randint(0, 4))]) for _ in range(3)]
    groups = layout * rows  # rows of equal length
    segments = Segments.groups(groups)
    tensors = inputs(rows, segments.total // rows, 4, 2, 8, torch.float64, seed)
    expected, expected_gradients = gradients(segment_attention_reference, tensors, segments, 8**-0.5)
    found, found_gradients = gradients(segment_attention, tensors, segments, 8**-0.5)
    assert (found - expected).abs().max() < 1e-10
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.usefixtures("kernel")
def test_lower_precision_stays_within_its_rounding(name, dtype, bound):
    segments = LAYOUTS[name]
    tensors = inputs(1, segments.total, 4, 2, 16, dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    expected, expected_gradients = gradients(segment_attention_reference, exact, segments, 0.25)
    found, found_gradients = gradients(segment_attention, tensors, segments, 0.25)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < bound * expected.abs().max()
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert (a.double() - b).abs().max() < bound * b.abs().max()


def test_positions_restart_at_documents_and_go_on_after_the_prompt():
    assert Segments.documents([2, 3]).positions().tolist() == [0, 1, 0, 1, 2]
    assert Segments.groups([(3, [2, 1])]).positions().tolist() == [0, 1, 2, 3, 4, 3]


def test_documents_are_read_off_the_positions():
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 5, 6, 7]])
    assert Segments.of_positions(positions).lengths == (3, 2, 1, 1, 3)


def test_a_row_end_always_ends_a_document():
    assert Segments.of_positions(torch.tensor([[0, 1], [2, 3]])).lengths == (2, 2)


@pytest.mark.parametrize(
    ("lengths", "parents"),
    [
        ((), ()),
        ((0,), (ROOT,)),
        ((1, 2), (ROOT,)),
        ((1, 2), (1, ROOT)),
        ((1, 1, 1), (ROOT, 0, 1)),
        ((1, 1), (ROOT, -2)),
    ],
)
def test_segments_that_make_no_sense_are_refused(lengths, parents):
    with pytest.raises(ValueError, match="segments: found"):
        Segments(lengths, parents)


def test_segments_must_fill_the_rows():
    q, k, v = inputs(2, 4, 2, 2, 4, torch.float32)
    with pytest.raises(ValueError, match="found 7 tokens, expected 2 rows of 4"):
        segment_attention(q, k, v, Segments.documents([3, 4]), 1.0)
    with pytest.raises(ValueError, match="expected them to fill 2 equal rows"):
        Segments.documents([3, 5]).mask(2)

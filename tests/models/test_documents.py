"""Documents packed into one row never see each other, whatever else is passed."""

from itertools import product

import pytest
import torch

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, LlamaHerdForTokenClassification

LENGTHS = (5, 1, 7, 3)


@pytest.fixture(scope="module")
def models(tiny_config):
    made = {}
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        made[attention] = LlamaHerdForCausalLM._from_config(tiny_config(), attn_implementation=attention)
    return made


def packed(lengths=LENGTHS, rows: int = 2, seed: int = 0):
    ids = torch.randint(20, 380, (rows, sum(lengths)), generator=torch.Generator().manual_seed(seed))
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(rows, -1)
    return ids, positions


WAYS = list(product(["eager", "sdpa"], [True, False], [True, False, None], ["none", "ones", "bool"]))


@pytest.mark.parametrize(("attention", "training", "use_cache", "mask"), WAYS)
def test_documents_of_a_row_never_see_each_other(models, attention, training, use_cache, mask):
    model = models[attention].train(training)
    ids, positions = packed()
    extra = {} if use_cache is None else {"use_cache": use_cache}
    if mask != "none":
        extra["attention_mask"] = torch.ones_like(ids) if mask == "ones" else torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, **extra).logits
        changed = ids.clone()
        changed[:, 2] = (changed[:, 2] + 1) % 380  # in the first document
        after = model(input_ids=changed, position_ids=positions, **extra).logits
        assert torch.equal(logits[:, 5:], after[:, 5:])
        assert not torch.equal(logits[:, 2:5], after[:, 2:5])
        start = 0
        for length in LENGTHS:
            alone = model(input_ids=ids[:, start : start + length]).logits
            assert (logits[:, start : start + length] - alone).abs().max() < 1e-5
            start += length


@pytest.mark.parametrize("extra", [{}, {"use_cache": True}, {"use_cache": False, "attention_mask": "ones"}])
def test_a_compiled_model_keeps_them_apart_too(models, extra):
    torch.compiler.reset()
    model = models["sdpa"].eval()
    ids, positions = packed(rows=2)
    if "attention_mask" in extra:
        extra = extra | {"attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        wanted = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        compiled = torch.compile(model, backend="eager")
        for row in (positions, positions[:1]):
            assert (compiled(input_ids=ids, position_ids=row, **extra).logits - wanted).abs().max() < 1e-5


def test_a_compiled_model_takes_left_padding_with_positions(models):
    torch.compiler.reset()
    model = models["sdpa"].eval()
    ids, _ = packed((16,))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        compiled = torch.compile(model, backend="eager")
        for use_cache in (True, False):
            found = compiled(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=use_cache).logits
            assert (found - plain)[mask.bool()].abs().max() < 1e-5


def test_rows_may_be_packed_differently(models):
    model = models["sdpa"].eval()
    ids, _ = packed(rows=3)
    lengths = [(16,), (4, 12), (2, 2, 2, 10)]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions).logits
        for row, parts in enumerate(lengths):
            alone = torch.cat([model(input_ids=part[None]).logits for part in ids[row].split(parts)], 1)
            assert (logits[row] - alone[0]).abs().max() < 1e-5


def test_positions_of_one_row_serve_a_whole_batch(models):
    model = models["sdpa"].eval()
    ids, positions = packed(rows=3)
    with torch.no_grad():
        shared = model(input_ids=ids, position_ids=positions[:1]).logits
        torch.testing.assert_close(shared, model(input_ids=ids, position_ids=positions).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("side", ["left", "right", "inside"])
def test_packing_beside_padding_is_refused(models, side, use_cache):
    ids, positions = packed()
    mask = torch.ones_like(ids)
    mask[1, {"left": 0, "right": -1, "inside": 9}[side]] = 0
    with pytest.raises(ValueError, match=r"packed documents.*attention_mask marks padding"):
        models["sdpa"](input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=use_cache)


def test_a_ready_four_dimensional_mask_is_taken_as_it_is(models):
    model = models["sdpa"].eval()
    ids, positions = packed()
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    allowed = (document[:, None] == document) & torch.ones(16, 16, dtype=torch.bool).tril()
    with torch.no_grad():
        ready = model(input_ids=ids, attention_mask=allowed.expand(2, 1, -1, -1), position_ids=positions).logits
        assert (ready - model(input_ids=ids, position_ids=positions).logits).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_ordinary_rows_go_on_from_a_cache_with_positions_given(models, attention):
    model = models[attention].eval()
    ids, _ = packed((16,))
    positions = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :9], position_ids=positions[:, :9], use_cache=True)
        rest = model(input_ids=ids[:, 9:], position_ids=positions[:, 9:], past_key_values=first.past_key_values)
    assert (torch.cat([first.logits, rest.logits], 1) - whole).abs().max() < 1e-5


def test_the_loss_of_a_packed_row_is_that_of_its_documents(models):
    model = models["sdpa"].train()
    ids, positions = packed(rows=1)
    labels = ids.masked_fill(positions == 0, -100)
    together = model(input_ids=ids, position_ids=positions, labels=labels).loss
    sums = [
        model(input_ids=part, labels=part).loss * (part.shape[1] - 1)
        for part in ids.split(LENGTHS, 1)
        if part.shape[1] > 1
    ]
    torch.testing.assert_close(together, sum(sums) / sum(n - 1 for n in LENGTHS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [LlamaHerdForTokenClassification, LlamaHerdForSequenceClassification])
def test_classifiers_keep_documents_apart_too(tiny_config, kind):
    torch.manual_seed(0)
    model = kind(tiny_config(num_labels=1)).eval()
    ids, positions = packed()
    with torch.no_grad():
        together = model(input_ids=ids, position_ids=positions, use_cache=True).logits
        alone = model(input_ids=ids[:, -3:]).logits
    found = together[:, -3:] if kind is LlamaHerdForTokenClassification else together
    assert (found - alone).abs().max() < 1e-5

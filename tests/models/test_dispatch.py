"""One model, many ways to run it: attention implementations, compiled, exported, offloaded caches, other positions."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import StaticCache
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM
from transformers.utils import is_flash_attn_2_available

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, LlamaHerdForTokenClassification
from llama_align.models import preset

from .test_against_transformers import ids_of, random_fields, twins

# flex attention wants heads of 16 or more
FIELDS = {"max_position_embeddings": 64, "head_dim": 16, "num_hidden_layers": 2}
flash = pytest.mark.skipif(
    not is_flash_attn_2_available(), reason="needs the package flash-attn and a GPU, which transformers asks for too"
)
ATTENTIONS = ["eager", "sdpa", "flex_attention", pytest.param("flash_attention_2", marks=flash)]


@pytest.fixture(scope="module")
def model():
    return twins(random_fields(11) | FIELDS, "eager")[1]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def padded(side: str) -> dict:
    """Rows of 20, 15 and 7 tokens, the same ones on either side of the padding."""
    ids, mask = torch.zeros(3, 20, dtype=torch.long), torch.zeros(3, 20, dtype=torch.long)
    for row, length in enumerate((20, 15, 7)):
        where = slice(20 - length, 20) if side == "left" else slice(0, length)
        ids[row, where], mask[row, where] = ids_of(1, length, seed=row)[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(model, attention: str, batch: dict) -> torch.Tensor:
    """Those of the real tokens, row after row."""
    model.set_attn_implementation(attention)
    return model(**batch, use_cache=False).logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_implementation_gives_the_logits_of_each_row_alone(model, attention, side):
    batch = padded(side)
    with torch.no_grad():
        found = logits_of(model, attention, batch)
        model.set_attn_implementation("eager")
        rows = [model(ids_of(1, length, seed=row)).logits[0] for row, length in enumerate((20, 15, 7))]
    torch.testing.assert_close(found, torch.cat(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_implementation_has_the_gradients_of_eager(model, attention):
    if attention == "flex_attention" and not torch.cuda.is_available():
        pytest.skip("torch has no backward of flex attention on the CPU")
    found = []
    for implementation in ("eager", attention):
        model.zero_grad()
        logits_of(model, implementation, padded("left")).square().mean().backward()
        found.append([weight.grad.clone() for weight in model.parameters()])
    for wanted, gradient in zip(*found, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_unknown_attention_is_refused(model):
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation("no_such_attention")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("given", ["ids", "embeddings", "mask", "positions"])
def test_a_training_step_is_one_graph(model, attention, given):
    model.set_attn_implementation(attention)
    ids = ids_of(2, 12)
    batch = {
        "ids": {"input_ids": ids},
        "embeddings": {"inputs_embeds": model.get_input_embeddings()(ids).detach()},
        "mask": {"input_ids": ids, "attention_mask": torch.ones_like(ids).triu(-8)},
        "positions": {"input_ids": ids, "position_ids": torch.arange(12)[None]},
    }[given] | {"labels": ids, "use_cache": False}

    def step(module):
        model.zero_grad()
        loss = module(**batch).loss
        loss.backward()
        return loss.detach(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    wanted, wanted_gradients = step(model)
    loss, gradients = step(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_decoding_with_a_static_cache_is_one_graph_for_all_positions(model):
    model.set_attn_implementation("sdpa")
    ids = ids_of(2, 10)
    compiles = []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        wanted = model(ids).logits
        first = model(ids[:, :4], past_key_values=cache, use_cache=True).logits
        rest = [
            compiled(
                ids[:, at : at + 1], position_ids=torch.tensor([[at]]), past_key_values=cache, use_cache=True
            ).logits
            for at in range(4, 10)
        ]
    torch.testing.assert_close(torch.cat([first, *rest], 1), wanted, atol=1e-5, rtol=1e-5)
    assert len(compiles) == 1


@pytest.mark.slow
def test_compiled_by_inductor_with_any_length(model):
    model.set_attn_implementation("sdpa")
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for length in (7, 12, 19):
            ids = ids_of(2, length)
            found = compiled(ids, use_cache=False).logits
            torch.testing.assert_close(found, model(ids, use_cache=False).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_exported_with_any_batch_and_length(model, attention):
    model.set_attn_implementation(attention)
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=48)
    ids = ids_of(2, 9)
    shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}, "use_cache": None}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
        for other in (ids_of(2, 9), ids_of(4, 31, seed=3)):
            mask = torch.ones_like(other)
            mask[0, :3] = 0
            found = exported(input_ids=other, attention_mask=mask, use_cache=False).logits
            wanted = model(input_ids=other, attention_mask=mask, use_cache=False).logits
            torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("place", ["fake", "meta"])
def test_shapes_alone_can_be_computed(place, use_cache):
    config = preset("herd-nano", vocab_size=64)
    with FakeTensorMode() if place == "fake" else torch.device("meta"):
        model = LlamaHerdForCausalLM(config)
        ids, positions = torch.zeros(2, 8, dtype=torch.long), torch.arange(8).expand(2, -1)
        assert model(ids, position_ids=positions, use_cache=use_cache).logits.shape == (2, 8, 64)
        loss = model.train()(ids, position_ids=positions, labels=ids, use_cache=False).loss
        loss.backward()
        assert loss.shape == ()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_per_example_through_torch_func(attention, training):
    model = twins(random_fields(11) | FIELDS, attention)[1].train(training)
    ids = ids_of(3, 8)
    weights = dict(model.named_parameters())

    def loss(weights, row):
        batch = {"input_ids": row[None], "labels": row[None], "position_ids": torch.arange(8)[None]}
        return torch.func.functional_call(model, weights, (), batch | {"use_cache": False}).loss

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, ids)
    for row in range(3):
        model.zero_grad()
        model(ids[row : row + 1], labels=ids[row : row + 1], use_cache=False).loss.backward()
        for name, weight in weights.items():
            torch.testing.assert_close(found[name][row], weight.grad, atol=1e-5, rtol=1e-4)


def test_exported_with_a_static_cache_it_generates_the_same():
    model = twins(random_fields(11) | FIELDS, "sdpa")[1]
    model.generation_config.update(
        use_cache=True,
        cache_implementation="static",
        max_length=20,
        cache_config={"batch_size": 1, "max_cache_len": 20, "device": "cpu"},
    )
    ids = ids_of(1, 5)
    wanted = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, disable_compile=True)
    exportable = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=20)
    program = exportable.export(input_ids=ids[:, :1], cache_position=torch.tensor([0])).module()
    tokens = ids[0].tolist()
    with torch.no_grad():
        for at in range(12):
            logits = program(input_ids=torch.tensor([[tokens[at]]]), cache_position=torch.tensor([at]))
            if at >= 4:
                tokens.append(int(logits[0, -1].argmax()))
    assert tokens == wanted[0].tolist()


def test_logits_to_keep_takes_a_count_or_indices(model):
    ids = ids_of(2, 9)
    with torch.no_grad():
        whole = model(ids).logits
        for keep, wanted in ((1, whole[:, -1:]), (torch.tensor([0, 4, 8]), whole[:, [0, 4, 8]]), (0, whole)):
            torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, wanted, atol=1e-6, rtol=0)


def test_checkpointing_with_equal_gradients_on_every_head(tiny_config):
    ids = ids_of(2, 9) + 30
    labels = {LlamaHerdForSequenceClassification: torch.tensor([0, 1]), LlamaHerdForTokenClassification: ids % 2}
    for kind in (LlamaHerdForCausalLM, *labels):
        torch.manual_seed(0)
        model = kind(tiny_config()).train()
        found = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable()
            model.zero_grad()
            model(input_ids=ids, labels=labels.get(kind, ids)).loss.backward()
            found.append([weight.grad.clone() for weight in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

"""The recipe that tokenises, and what a run of stages says and leaves, through the recipes' own `main`."""

import json

import pytest

from llama_align import recipe
from llama_align.pretraining import Plan, Stage, open_sources
from tests.recipes.test_recipes import module_of, types_of

from ..docs.metric_names import assert_explained


@pytest.fixture
def call(tmp_path, monkeypatch):
    """`call(script, options)` runs a recipe as a YAML with these options would."""

    def run(script: str, **options) -> None:
        types = types_of(script, monkeypatch)
        config = tmp_path / f"{script}.yaml"
        config.write_text(json.dumps({"output_dir": str(tmp_path / script)} | options))
        module_of(script, monkeypatch).main(*recipe.parse(types, ["--config", str(config)]))

    return run


def test_what_is_tokenised_once_is_pretrained_on_in_stages(call, documents, tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    texts = [{"path": documents("books"), "part": [0, 0.8]}, {"path": documents("web"), "name": "pages"}]
    call("tokenise", tokenizer=str(tmp_path / "tokenizer"), datasets=texts)
    folder = tmp_path / "tokenise"
    sizes = {name: row["tokens"] for name, row in json.loads((folder / "metrics.json").read_text())["sources"].items()}
    assert set(sizes) == {"books", "pages"}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = {
        "tokenizer": str(tmp_path / "tokenizer"),
        "datasets": [{"path": str(folder / name), "epochs": 3} for name in sizes],
        "eval_datasets": [{"path": documents("books"), "part": [0.8, 1]}],
        "size": "herd-nano",
        "size_overrides": shape | {"num_key_value_heads": 2, "rope_theta": 1e4},
        "context": 32,
        "stages": [
            {"tokens": 640, "batch": 128, "mixture": {"books": 3, "pages": 1}},
            {"tokens": 512, "context": 64, "batch": 256, "mixture": {"books": 1}, "schedule": {"type": "linear"}},
        ],
        "per_device_train_batch_size": 2,
        "weight_average": "mean",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
    }
    call("pretrain", **options)
    out = tmp_path / "pretrain"
    assert_explained(out)
    metrics = json.loads((out / "metrics.json").read_text())
    tokens = {"books": 480 + 512, "pages": 160}
    for name, read in tokens.items():
        row = metrics["sources"][name]
        assert (row["tokens"], row["epochs"]) == (read, read / sizes[name])
        assert f"epochs/{name}" in (out / "log.jsonl").read_text()
    assert metrics["steps"] == 7
    assert set(metrics["average"]) == {"eval_loss", "eval_bits_per_byte"}
    assert metrics["average"]["eval_loss"] != metrics["eval_loss"]
    assert set(metrics["eval_bits_per_byte"]) == {"books"}
    assert "| sources/books/epochs |" in (out / "README.md").read_text()
    assert (out / "average" / "model.safetensors").is_file()
    assert [path.name.split("-")[0] for path in (out / "tokens").iterdir()] == ["books"], "held-out documents alone"
    assert "epochs" in capsys.readouterr().out

    many = [options["stages"][0], options["stages"][1] | {"tokens": 100_000}]
    with pytest.raises(ValueError, match=r"of the source books, \d+\.\d+ epochs, expected at most 3 of its"):
        call("pretrain", **options | {"stages": many})
    with pytest.raises(recipe.RecipeError, match="key 'epochs': found 3 without stages, expected none"):
        call("pretrain", **{key: value for key, value in options.items() if key != "stages"})
    with pytest.raises(recipe.RecipeError, match="root_of_batch: found true without stages"):
        call("pretrain", **options | {"stages": None, "root_of_batch": True})
    with pytest.raises(recipe.RecipeError, match="packing: found 'bfd' with stages, expected concat"):
        call("pretrain", **options | {"packing": "bfd"})
    weighted = [source | {"weight": 1} for source in options["datasets"]]
    with pytest.raises(recipe.RecipeError, match="key 'weight': found 1 with a mixture in every stage, expected none"):
        call("pretrain", **options | {"datasets": weighted})
    held = [options["eval_datasets"][0] | {"weight": 2}]
    with pytest.raises(recipe.RecipeError, match="key 'weight': found 2 for held-out documents, expected none"):
        call("pretrain", **options | {"eval_datasets": held})


def test_an_adapter_is_trained_with_its_bases_frequencies():
    recipe.refuse_turning([{"tokens": 1}])
    with pytest.raises(recipe.RecipeError, match=r"stages\[1\], key 'rope_theta': found 500000.0 for an adapter"):
        recipe.refuse_turning([{}, {"rope_theta": 5e5}])


def test_documents_to_learn_retrieval_from_are_a_source_of_their_own(call, documents, tokenizer, tmp_path, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = {"tokenizer": str(tmp_path / "tokenizer"), "datasets": [{"path": documents("web", 200)}]}
    options["retrieval"] = [{"length": 128, "documents": 7, "needles": 2, "digits": 2}]
    monkeypatch.setattr("llama_align.pretraining.retrieval.FILE_TOKENS", 512)
    call("tokenise", **options)
    (folder,) = (tmp_path / "tokenise").glob("retrieval-128-*")
    assert_explained(tmp_path / "tokenise")
    found = json.loads((tmp_path / "tokenise" / "metrics.json").read_text())["sources"]
    assert found["retrieval-128"] == {"documents": 7, "tokens": 7 * 128}
    assert len(list(folder.glob("*.arrow"))) == 2
    (source,) = open_sources([str(tmp_path / "tokenise" / "retrieval-128")], tokenizer, tmp_path)
    plan = Plan([source], [Stage.parse({"tokens": 256, "context": 128, "batch": 256}, 0, None)], 0)
    assert all(row.start % 128 == 0 for step in range(plan.steps) for row in plan.rows(step)), "no row cuts one"
    assert " The key of " in tokenizer.decode(source.tokens.read(128, 128)[0])
    call("tokenise", **options | {"retrieval": [options["retrieval"][0] | {"copies": 0.5, "name": "half"}]})
    (source,) = open_sources([str(tmp_path / "tokenise" / "half")], tokenizer, tmp_path)
    texts = [source.tokens.read(128 * n, 128)[0].tolist() for n in range(7)]
    copied = [text for text in texts if " The key of " not in tokenizer.decode(text)]
    assert len(copied) == 3
    for text in copied:
        inner = text[1:-1]
        assert any(inner[:n] == inner[-n:] for n in range(len(inner) // 4, len(inner) // 2 + 1))
    for value, match in (({"length": 128}, "expected a mapping with length and documents"), ({"x": 1}, "found")):
        with pytest.raises(ValueError, match=rf"retrieval\[0\]: .*{match}"):
            call("tokenise", **options | {"retrieval": [value]})
    for key, value in (("needles", 0), ("copies", 1.5), ("copies", True)):
        with pytest.raises(ValueError, match=rf"retrieval\[0\], key '{key}': found {value}"):
            call("tokenise", **options | {"retrieval": [{"length": 128, "documents": 1, key: value}]})
    with pytest.raises(ValueError, match="found room for 0 tokens of text"):
        call("tokenise", **options | {"retrieval": [{"length": 4, "documents": 1, "copies": 1}]})

"""The recipes of curation: from a YAML to a corpus, from labels to classifiers, mistakes in one line."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="needs the extra 'curation'")
pytest.importorskip("sklearn", reason="needs the extra 'curation'")

from llama_align import recipe
from llama_align.data import write_jsonl

from ..docs.metric_names import assert_explained
from .test_classify import lessons
from .test_pipeline import rows_of
from .test_text import prose

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def module(monkeypatch):
    def load(name: str):
        monkeypatch.setattr(recipe, "run", lambda *_, **__: None)
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    return load


def test_from_sources_to_a_corpus(module, tmp_path):
    curate = module("curate")
    write_jsonl(tmp_path / "in.jsonl", [{"text": prose(100, n % 3)} for n in range(6)])
    args = curate.CurateArguments(
        str(tmp_path / "out"), [{"path": str(tmp_path / "in.jsonl")}], minhash={"buckets": 4}, tasks=1, workers=1,
        without=["urls", "pii", "lines"],
    )  # fmt: skip
    curate.main(args)
    assert [row["text"] for row in rows_of(tmp_path / "out")] == [prose(100, n) for n in range(3)]
    assert_explained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["documents"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "sources: found an empty list"),
        ({"without": ["dedup"]}, "without: found 'dedup', expected some of urls, language"),
        ({"lines": {"limits": 3}}, "lines, key 'limits': unknown, known: limit"),
        ({"executor": "cloud"}, "executor: found 'cloud'"),
    ],
)
def test_mistakes_are_named(module, tmp_path, changes, message):
    curate = module("curate")
    (tmp_path / "in.jsonl").write_text("{}\n")
    given = {"sources": [{"path": str(tmp_path / "in.jsonl")}]} | changes
    with pytest.raises(ValueError, match=message):
        curate.main(curate.CurateArguments(str(tmp_path / "out"), **given))


def test_from_labels_to_a_classifier_with_its_agreement(module, tmp_path):
    classify = module("classify")
    texts, labels = lessons(100)
    write_jsonl(tmp_path / "labels.jsonl", [{"text": t, "label": x} for t, x in zip(texts, labels, strict=True)])
    classify.main(classify.ClassifyArguments(str(tmp_path / "out"), labels=str(tmp_path / "labels.jsonl")))
    assert_explained(tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["labels"] == {"bad": 50, "good": 50}
    assert metrics["light"]["agreement"] > 0.9
    assert metrics["held_out"] >= 10
    assert (tmp_path / "out" / "light.safetensors").is_file()


def test_labels_that_cannot_teach_are_refused(module, tmp_path):
    classify = module("classify")
    write_jsonl(tmp_path / "labels.jsonl", [{"text": str(n), "label": "good"} for n in range(30)])
    with pytest.raises(recipe.RecipeError, match=r"labels: found \{'good': 30\}, expected two classes"):
        classify.main(classify.ClassifyArguments(str(tmp_path / "out"), labels=str(tmp_path / "labels.jsonl")))
    with pytest.raises(recipe.RecipeError, match="found both or neither"):
        classify.main(classify.ClassifyArguments(str(tmp_path / "out")))


def test_a_checkpoint_is_asked_for_labels(module, tmp_path, tokenizer, tiny_config, monkeypatch):
    from llama_align import LlamaHerdForCausalLM
    from llama_align.sampling.dialogs import DialogSampler

    LlamaHerdForCausalLM(tiny_config(max_position_embeddings=2048)).save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    texts, _ = lessons(40)
    write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    args = module("classify").ClassifyArguments(
        str(tmp_path / "out"),
        model=str(tmp_path / "chat"),
        datasets=[{"path": str(tmp_path / "in.jsonl")}],
        kind="code",
    )
    asked = []
    real = DialogSampler.__call__

    def answered(self, prompts, params, **options):
        asked.extend(prompts)
        drafts = real(self, prompts, params, **options)  # the checkpoint's own words are noise
        says = ["yes" if "proof" in p[0]["content"] or "theorem" in p[0]["content"] else "no" for p in prompts]
        return [[type(d[0])(say, True, 1)] for d, say in zip(drafts, says, strict=True)]

    monkeypatch.setattr(DialogSampler, "__call__", answered)
    module("classify").main(args)
    assert len(asked) == 40
    assert all("programming" in dialog[0]["content"] for dialog in asked)
    labels = [json.loads(line)["label"] for line in (tmp_path / "out" / "labels.jsonl").open()]
    assert labels == ["good" if "proof" in text or "theorem" in text else "bad" for text in texts]


def test_without_the_extra_the_recipe_says_what_to_install(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_align.curation.executors", None)
    curate = module("curate")
    with pytest.raises(
        recipe.RecipeError, match=r"expected the extra 'curation': pip install 'llama_align\[curation\]'"
    ):
        curate.main(curate.CurateArguments(str(tmp_path), [{"path": "x"}]))

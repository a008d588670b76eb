"""Light and heavy classifiers, labels asked for by prompt, their agreement, and both applied in the pipeline."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra 'curation'")
pytest.importorskip("datatrove", reason="needs the extra 'curation'")

from llama_align.curation import options
from llama_align.curation.classify import Light, load
from llama_align.curation.heavy import Heavy
from llama_align.curation.labels import agreement, ask_for_labels, question, read_answer
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source
from llama_align.data import write_jsonl

from ..conftest import made_up_text
from .test_pipeline import ONE, rows_of, steps_of
from .test_text import prose


def lessons(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts that teach, and advertisements."""
    draw = random.Random(seed)
    texts, labels = [], []
    for n in range(count):
        teaches = n % 2 == 0
        words = ["therefore", "theorem", "because", "proof"] if teaches else ["buy", "cheap", "offer", "click"]
        picked = draw.choices(words, k=4)
        texts.append(
            " ".join(f"{line} {word}" for line, word in zip(prose(40, seed + n).splitlines(), picked, strict=False))
        )
        labels.append("good" if teaches else "bad")
    return texts, labels


def test_a_light_classifier_learns_is_saved_as_numbers_and_comes_back(tmp_path):
    light = Light.train(*lessons(80))
    texts, labels = lessons(40, 1000)
    assert light.labels(texts) == labels
    light.save(tmp_path / "light.safetensors")
    again = load(tmp_path / "light.safetensors")
    assert again.classes == ["bad", "good"]
    assert np.array_equal(again.probabilities(texts), light.probabilities(texts))
    assert np.allclose(light.probabilities(texts).sum(1), 1)


def test_equal_data_give_equal_weights_and_three_classes_work():
    texts, labels = lessons(60)
    labels = [f"{label}{n % 3 == 0}" for n, label in enumerate(labels)]
    one, two = Light.train(texts, labels), Light.train(texts, labels)
    assert np.array_equal(one.weights, two.weights)
    assert one.probabilities(texts[:5]).shape == (5, 4)


def test_what_is_no_classifier_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"x\.safetensors: no light classifier"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="expected at least two classes"):
        Light.train(["a", "b"], ["good", "good"])


def test_a_heavy_classifier_learns_and_comes_back(tokenizer, tmp_path):
    good = [f"ba do {made_up_text(12, n)}" for n in range(48)]
    bad = [f"qui zo {made_up_text(12, 100 + n)}" for n in range(48)]
    texts, labels = good + bad, ["good"] * 48 + ["bad"] * 48
    heavy = Heavy.train(texts, labels, tokenizer, context=32, epochs=4, batch=16, learning_rate=3e-3)
    assert agreement(labels, heavy.labels(texts))["agreement"] > 0.9
    heavy.save(tmp_path)
    again = load(tmp_path)
    assert again.classes == ["bad", "good"]
    assert np.allclose(again.probabilities(texts[:4]), heavy.probabilities(texts[:4]), atol=1e-5)


def test_a_text_gets_the_same_probabilities_in_any_batch(tokenizer):
    heavy = Heavy.train(["ba do", "qui zo ra"] * 4, ["good", "bad"] * 4, tokenizer, context=48, epochs=1)
    texts = ["ba", made_up_text(20, 3), made_up_text(200, 4)]
    together, alone = heavy.probabilities(texts), [heavy.probabilities([text])[0] for text in texts]
    assert np.allclose(together, np.stack(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "label"),
    [("Yes", "good"), ("no.", "bad"), ("Yes, it is", "good"), ("yes or no", None), ("perhaps", None), ("note", None)],
)
def test_answers_are_read_or_counted_as_none(answer, label):
    assert read_answer(answer) == label


def test_each_kind_has_a_prompt_and_an_unknown_one_is_refused():
    asked = {question("x" * 9000, kind)[0]["content"] for kind in ("general", "code", "reasoning")}
    assert len(asked) == 3
    assert all(len(text) < 2700 for text in asked)
    with pytest.raises(ValueError, match="kind: found 'poetry'"):
        question("x", "poetry")


def test_prompt_label_distil_apply():
    texts, truth = lessons(80)

    def ask(dialogs):
        taught = ("theorem", "proof", "because", "therefore")
        return ["Yes" if any(word in d[0]["content"].split("---")[1] for word in taught) else "No" for d in dialogs]

    labels, silent = ask_for_labels(texts, "general", ask)
    assert silent == 0
    light = Light.train(texts[:60], labels[:60])
    found = agreement(labels[60:], light.labels(texts[60:]))
    assert found["agreement"] >= 0.9
    assert agreement(truth, labels)["agreement"] > 0.9


def test_agreement_is_that_of_the_definitions():
    given, found = ["good"] * 6 + ["bad"] * 4, ["good"] * 5 + ["bad"] + ["good"] + ["bad"] * 3
    measured = agreement(given, found)
    assert measured["agreement"] == pytest.approx(0.8)
    assert measured["kappa"] == pytest.approx((0.8 - 0.52) / 0.48)
    assert measured["precision"] == measured["recall"] == measured["f1"] == pytest.approx(5 / 6)


def test_quality_and_topics_act_in_the_pipeline(tmp_path):
    Light.train(*lessons(80)).save(tmp_path / "light.safetensors")
    texts, labels = lessons(60, 500)
    write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    model, source = str(tmp_path / "light.safetensors"), Source.parse(str(tmp_path / "in.jsonl"))
    Pipeline(tmp_path / "quality", [source], quality=options.Quality(model)).run(ONE)
    rows = rows_of(tmp_path / "quality")
    assert [row["text"] for row in rows] == [text for text, label in zip(texts, labels, strict=True) if label == "good"]
    assert all(row["scores"]["quality"] >= 0.5 for row in rows)
    assert steps_of(tmp_path / "quality")["quality"]["dropped"] == {"low quality": 30}

    Pipeline(tmp_path / "topics", [source], topics=options.Topics(model, {"bad": 0.2})).run(ONE)
    kept = [labels[texts.index(row["text"])] for row in rows_of(tmp_path / "topics")]
    assert kept.count("good") == 30
    assert 2 <= kept.count("bad") <= 15
    assert json.loads((tmp_path / "topics" / "ledger.json").read_text())["steps"][-1]["dropped"] == {
        "topic over its share: bad": 30 - kept.count("bad")
    }


def test_the_best_documents_of_a_language_stay(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"text": prose(100, n)} for n in range(10)])
    languages = options.Languages(max_tokens={"en": 350})
    Pipeline(tmp_path / "out", [Source.parse(str(tmp_path / "in.jsonl"))], language=languages).run(ONE)
    last = steps_of(tmp_path / "out")["balance"]
    assert last["tokens_out"] <= 350 < last["tokens_in"]
    assert last["documents_out"] >= 1

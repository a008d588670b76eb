"""Near meanings: vectors of words or of a checkpoint's states, clusters, and the best of what is alike stays."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra 'curation'")
pytest.importorskip("datatrove", reason="needs the extra 'curation'")

from llama_align import LlamaHerdForCausalLM
from llama_align.curation import dedup, options, semantic
from llama_align.curation.executors import Executor
from llama_align.curation.files import Spill
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source
from llama_align.curation.semantic_steps import Choose
from llama_align.data import SourceError, write_jsonl

from .test_pipeline import ONE, content, rows_of, steps_of


def subjects(count: int) -> list[list[str]]:
    """Words of texts that have a subject of their own each."""
    draw = random.Random(0)
    common = [f"common{n}" for n in range(20)]
    return [[*(f"word{text}x{n % 40}" for n in range(100)), *draw.choices(common, k=30)] for text in range(count)]


def reworded(found: list[str], seed: int) -> str:
    """The same words in another order, fewer of them: no near duplicate by its n-grams."""
    return " ".join(random.Random(seed).sample(found, len(found) - 10))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "in.jsonl"
    texts = subjects(40)
    rows = [{"text": " ".join(text), "url": f"http://a.example/{n}"} for n, text in enumerate(texts)]
    rows += [{"text": reworded(text, n), "url": f"http://b.example/{n}"} for n, text in enumerate(texts[:6])]
    write_jsonl(path, rows)
    return path


def run(path, output, executor=ONE, **changes):
    wanted = {"similarity": 0.3, "dimensions": 44, "cluster": 10} | changes
    source = Source.parse(str(path))
    Pipeline(output, [source], minhash=options.MinHash(), semantic=options.Semantic(**wanted)).run(executor)
    return steps_of(output)


def test_of_texts_near_in_meaning_the_longest_stays_and_no_other_goes(planted, tmp_path):
    steps = run(planted, tmp_path)
    assert steps["minhash"]["dropped"] == {}
    assert steps["semantic"]["dropped"] == {"near in meaning": 6}
    assert all(row["url"].startswith("http://a.example/") for row in rows_of(tmp_path))
    (gone,) = tmp_path.glob("work/*/semantic/gone.jsonl")
    listed = [json.loads(line) for line in gone.open()]
    assert [(row["place"] & 0xFF) - 40 for row in listed] == [row["stays"] & 0xFF for row in listed]
    assert all(row["cosine"] >= 0.3 for row in listed)


def test_any_number_of_tasks_and_partitions_gives_the_same_bytes(planted, tmp_path, monkeypatch):
    run(planted, tmp_path / "one")
    monkeypatch.setattr("llama_align.curation.semantic_steps.PARTITION", 4)
    monkeypatch.setattr("llama_align.curation.semantic_steps.HELD", 5)
    run(planted, tmp_path / "three", Executor("local", tasks=3, workers=2))
    assert content(tmp_path / "three") == content(tmp_path / "one")


def test_nothing_is_near_in_an_empty_corpus(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"text": "a b"}])
    bounds = options.Heuristics(bounds={"min_words": 10})
    source = Source.parse(str(tmp_path / "in.jsonl"))
    Pipeline(tmp_path / "out", [source], heuristics=bounds, semantic=options.Semantic()).run(ONE)
    assert steps_of(tmp_path / "out")["semantic"]["documents_in"] == 0


def test_the_states_of_a_checkpoint_are_vectors_too(tokenizer, tiny_config, tmp_path):
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["ba do ki", "lu me no ra", "ba do ki", "si te vu zo"]
    space = semantic.Space.fit(texts, str(tmp_path), 128, 1)
    vectors = space.vectors(texts)
    assert vectors.shape == (4, 32)
    assert np.allclose((vectors**2).sum(1), 1, atol=1e-5)
    assert [(gone, stays) for gone, stays, _ in semantic.near(vectors, 0.999)] == [(2, 0)]
    assert np.array_equal(space.vectors(texts[1:2])[0], vectors[1])  # whatever is beside it
    space.save(tmp_path / "space")
    assert np.array_equal(semantic.Space.load(tmp_path / "space", str(tmp_path)).vectors(texts), vectors)


def test_quality_comes_before_length_and_clusters_are_apart(tmp_path):
    kind = np.dtype([("cluster", "<u8"), ("place", "<u8"), ("quality", "<f8"), ("tokens", "<u4"), ("vector", "<f4", 2)])
    rows = np.array(
        [(7, 1, 0.2, 90, (1, 0)), (7, 2, 0.9, 10, (1, 0.01)), (7, 3, 0.2, 99, (0, 1)), (1 << 63, 4, 0.1, 5, (1, 0))],
        kind,
    )
    spill = Spill(tmp_path / "placed", 0, kind, 2)
    spill.add(rows)
    spill.flush()
    Choose(tmp_path, options.Semantic(similarity=0.95)).run()
    assert np.load(tmp_path / "gone.npy").tolist() == [1]


def test_a_vector_goes_only_where_it_is_like_one_that_stays():
    turn = [np.array([np.cos(angle), np.sin(angle)], np.float32) for angle in (0.0, 0.4, 0.8)]
    found = semantic.near(np.stack(turn), float(np.cos(0.5)))
    assert [(gone, stays) for gone, stays, _ in found] == [(1, 0)]  # the third is like the second, which went


def test_words_in_another_order_are_near_and_no_near_duplicates():
    texts = subjects(20)
    whole = [" ".join(text) for text in texts]
    other = reworded(texts[0], 1)
    assert dedup.jaccard(dedup.shingles(whole[0]), dedup.shingles(other)) < 0.1
    words = semantic.Words.fit([*whole, other], 20)
    alike = words([*whole, other]) @ words([other])[0]
    assert alike[0] > 0.5
    assert np.abs(alike[1:20]).max() < 0.3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cluster": 0}, "semantic, key 'cluster': found 0, expected a whole number of at least 1"),
        ({"dimensions": 12.5}, "semantic, key 'dimensions': found 12.5"),
        ({"model": "nowhere"}, "semantic, key 'model': found nothing at 'nowhere'"),
        ({"similarity": 1.5}, "semantic, key 'similarity': found 1.5, expected a cosine between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(given, message):
    with pytest.raises(SourceError, match=message):
        options.options(options.Semantic, given, "semantic")

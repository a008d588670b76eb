"""Pages of code and of reasoning are told from others, and go a way of their own."""

import json
from itertools import islice

import pytest

pytest.importorskip("sklearn", reason="needs the extra 'curation'")
pytest.importorskip("datatrove", reason="needs the extra 'curation'")

from llama_align.curation import options
from llama_align.curation.classify import Light
from llama_align.curation.kinds import kind_of
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source
from llama_align.data import SourceError, read_jsonl, write_jsonl

from .test_pipeline import ONE, rows_of, steps_of
from .test_text import SHARED, prose, shared

LISTING = """To add the numbers of a list, write a function and call it with what you have:

def add(numbers):
    total = 0
    for number in numbers:
        total += number
    return total

assert add([1, 2, 3]) == 6
{0} = add([{1}, 4])
print({0})

The sum of the empty list is 0, and that is what the first line of it is for: have a look at the end of the text."""
PROOF = """Theorem. The sum of the first n odd numbers is n^2, and that is what we have to prove here.

Proof. For n = 1 the sum is 1 = 1^2. Suppose that it is true of n = k, that is, 1 + 3 + ... + (2k - 1) = k^2.
To both sides add 2k + 1, the next odd number: \\(k^2 + 2k + 1 = (k + 1)^2\\). Therefore it is true of n = k + 1, too.
Hence by induction it is true of all n, with {0} and {1} for the letters of the equation."""


def pages(count: int) -> list[dict]:
    rows = []
    for n in range(count):
        for name, text in (("code", LISTING), ("reasoning", PROOF)):
            rows.append({"text": text.format(f"name{n}", n), "url": f"http://{name}{n}.example/"})
        rows.append({"text": prose(120, n), "url": f"http://general{n}.example/"})
    return rows


def test_kinds_are_told_by_their_lines_and_formulas():
    assert [kind_of(row["text"]) for row in pages(1)] == ["code", "reasoning", "general"]
    assert kind_of("") == "general"
    assert kind_of("First we use the bridge;\nthen we import the market.\nIf not, return home:\nfor ever.") == "general"


def test_each_kind_has_bounds_and_files_of_its_own(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", pages(3))
    source = Source.parse(str(tmp_path / "in.jsonl"))
    bounds = {"min_alphabetic": 0.97, "min_mean_word": 3.9}
    looks = options.Heuristics(bounds=bounds, divergence=None)
    Pipeline(tmp_path / "alike", [source], heuristics=looks).run(ONE)
    assert {row["url"][7:14] for row in rows_of(tmp_path / "alike")} == {"general"}

    own = options.Heuristics(bounds=bounds, divergence=None, kinds={"reasoning": {"bounds": {"max_words": 40}}})
    Pipeline(tmp_path / "apart", [source], kinds=options.Kinds(), heuristics=own).run(ONE)
    steps = steps_of(tmp_path / "apart")
    assert steps["kinds"]["changed"] == {"code": 3, "general": 3, "reasoning": 3}
    assert steps["heuristics"]["dropped"] == {"long": 3}
    files = json.loads((tmp_path / "apart" / "ledger.json").read_text())["files"]
    assert files == ["corpus-00000.jsonl.gz", "corpus-code-00000.jsonl.gz"]
    assert [row["url"] for row in rows_of(tmp_path / "apart")] == [
        f"http://{kind}{n}.example/" for kind in ("general", "code") for n in range(3)
    ]


def test_each_kind_has_a_classifier_of_its_own(tmp_path):
    texts = [f"{prose(20, n)} {'good' if n % 2 else 'bad'}" for n in range(20)]
    for name, swapped in (("general", 0), ("code", 1)):
        labels = [("bad", "good")[(n + swapped) % 2] for n in range(20)]
        Light.train(texts, labels).save(tmp_path / f"{name}.safetensors")
    rows = [{"text": f"{row['text']}\ngood good good", "url": row["url"]} for row in pages(2)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    quality = options.Quality(
        str(tmp_path / "general.safetensors"), 0.5, {"code": {"model": str(tmp_path / "code.safetensors")}}
    )
    source = Source.parse(str(tmp_path / "in.jsonl"))
    Pipeline(tmp_path / "out", [source], kinds=options.Kinds(), quality=quality).run(ONE)
    assert steps_of(tmp_path / "out")["quality"]["dropped"] == {"low quality, code": 2}


def test_a_classifier_may_say_the_kind(tmp_path):
    texts, names = zip(*[(row["text"], row["url"][7:11]) for row in pages(6)], strict=True)
    kinds = {"code": "code", "reas": "reasoning", "gene": "general"}
    Light.train(list(texts), [kinds[name] for name in names]).save(tmp_path / "kinds.safetensors")
    Light.train(list(texts), [f"{name}x" for name in names]).save(tmp_path / "other.safetensors")
    write_jsonl(tmp_path / "in.jsonl", pages(2))
    source = Source.parse(str(tmp_path / "in.jsonl"))
    Pipeline(tmp_path / "out", [source], kinds=options.Kinds(str(tmp_path / "kinds.safetensors"))).run(ONE)
    assert steps_of(tmp_path / "out")["kinds"]["changed"] == {"code": 2, "general": 2, "reasoning": 2}
    with pytest.raises(SourceError, match="found the class 'codex', expected some of general, code, reasoning"):
        Pipeline(tmp_path / "no", [source], kinds=options.Kinds(str(tmp_path / "other.safetensors"))).run(ONE)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (options.Heuristics, {"kinds": {"poem": {}}}, "'kinds': found 'poem', expected one of code, reasoning"),
        (
            options.Heuristics,
            {"kinds": {"code": {"divergence": 3}}},
            "code: found 'divergence', expected one of bounds",
        ),
        (options.Quality, {"model": __file__, "kinds": {"code": {"modle": "x"}}}, "code: found 'modle'"),
        (options.Quality, {"model": __file__, "kinds": {"code": {"model": "nowhere"}}}, "found nothing at 'nowhere'"),
        (options.Kinds, {"model": "nowhere"}, "kinds, key 'model': found nothing at 'nowhere'"),
    ],
)
def test_wrong_options_are_refused(kind, given, message):
    with pytest.raises(SourceError, match=message):
        options.options(kind, given, kind.__name__.lower())


@shared
def test_real_texts_have_the_kind_of_their_book():
    def share(file: str, kind: str) -> float:
        texts = [row["text"] for _, row in islice(read_jsonl(SHARED / "pretrain" / file), 100)]
        return sum(kind_of(text) == kind for text in texts) / len(texts)

    assert share("maths_openstax_algebra.jsonl.xz", "reasoning") > 0.5
    assert share("techdocs_rust_book.jsonl.xz", "code") > 0.3
    assert share("stories_fairytaleqa.jsonl.xz", "general") == 1

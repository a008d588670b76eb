"""URLs, languages, heuristics and personal data: each rule on texts made to trip it and no other."""

import gzip
import json
import lzma
import os
import random
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("xxhash", reason="needs the extra 'curation'")
pytest.importorskip("datatrove", reason="needs the extra 'curation'")

from datatrove.data import Document

from llama_align.curation import heuristics, language, options, pii, steps, urls
from llama_align.curation.heuristics import DirtyWords, Lengths
from llama_align.curation.ledger import Tally

SHARED = Path(os.environ.get("LLAMA_ALIGN_SHARED", Path(__file__).parents[3] / "shared")) / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside the checkout")

VOCABULARY = """
river mountain garden letter window morning silver market teacher winter summer captain village harbour lantern
kitchen evening distant travel remember carry follow answer listen gather promise measure wander believe discover
narrow quiet ancient golden heavy gentle hollow bright simple broken corner meadow castle forest island journey stone
bridge candle shadow thunder orchard blanket feather copper basket valley ribbon pepper marble saddle
"""


def prose(words: int, seed: int = 0) -> str:
    """Sentences without repetition that every rule lets through."""
    draw = random.Random(seed)
    made = []
    while sum(len(line.split()) for line in made) < words:
        picked = draw.sample(VOCABULARY.split(), 8)
        made.append(
            f"The {picked[0]} and the {picked[1]} have {' '.join(picked[2:6])} to {picked[6]} with {picked[7]}."
        )
    return "\n".join(made)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("HTTP://www.Example.com:80/a/../b/index.html?utm_source=x&b=2&a=1#part", "example.com/a/../b?a=1&b=2"),
        ("https://example.com/%7Euser/", "example.com/~user"),
        ("https://example.com", "example.com"),
        ("http://example.com:8080//x///y/", "example.com:8080/x/y"),
        ("https://example.com/p;jsessionid=12AB?PHPSESSID=3&q=", "example.com/p?q="),
        ("https://bücher.example/ä", "xn--bcher-kva.example/%C3%A4"),
    ],
)
def test_urls_of_one_page_have_one_form(url, form):
    assert urls.normalise(url) == form
    assert urls.normalise(f"https://{form}") == form


@pytest.mark.parametrize("url", ["", "mailto:a@b.c", "/relative", "http://", "http://[::1", "http://a:port/"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match=r"."):
        urls.normalise(url)


def test_domains_are_the_registered_ones():
    assert urls.domain("http://news.bbc.co.uk/1") == "bbc.co.uk"
    assert urls.domain("example.com/a?b") == "example.com"
    assert urls.domain("http://127.0.0.1/x") == "127.0.0.1"


def test_dates_of_all_forms_are_ordered():
    forms = ["1999", "2001-05", "20050102030405", "2010-01-01", "2010-01-01T00:00:01Z", "Sat, 02 Jan 2010 00:00:00 GMT"]
    moments = [urls.seconds(form) for form in forms]
    assert moments == sorted(set(moments))
    assert urls.seconds("soon") == urls.seconds(None) == urls.NO_DATE < moments[0]


LANGUAGES = {
    "en": "The committee has not yet decided whether the old bridge will be repaired before the winter.",
    "de": "Der Ausschuss hat noch nicht entschieden, ob die alte Brücke vor dem Winter repariert wird.",
    "fr": "Le comité n'a pas encore décidé si le vieux pont sera réparé avant l'hiver prochain.",
    "es": "El comité aún no ha decidido si el puente viejo será reparado antes del invierno.",
    "ru": "Комитет ещё не решил, будет ли старый мост отремонтирован до зимы.",
    "ja": "委員会は古い橋を冬の前に修理するかどうかまだ決めていません。",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_languages_are_told_apart(code):
    found, probability = language.identify(LANGUAGES[code])
    assert found == code
    assert 0.9 < probability <= 1


def test_text_without_letters_has_no_language():
    assert language.identify("12 34 -- ... http://a.b/c") == ("und", 0.0)


@pytest.fixture
def little_lists(tmp_path, monkeypatch):
    """datatrove's lists cut down to a line each: its own take half a minute and a gigabyte."""
    import tarfile

    from datatrove.pipeline.filters import url_filter

    assets, cache = tmp_path / "assets", tmp_path / "cache"
    for folder in (assets, cache):
        folder.mkdir()
    lists = {"domains": "adult.com\nsub.mixed.com\n", "urls": "http://fine.example/not-this\n"}
    with tarfile.open(assets / "url_filterblacklistsv0_3_0.tar.gz", "w:gz") as tar:
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            tar.add(tmp_path / name, name)
    for name, text in (("banned_words", "banned"), ("banned_subwords", "subword"), ("soft_banned_words", "one\ntwo")):
        (assets / f"{name}.txt").write_text(f"{text}\n")
    monkeypatch.setattr(url_filter, "ASSETS_PATH", str(assets))
    monkeypatch.setattr(url_filter, "cached_assets_path", lambda **_: str(cache))
    steps.block_lists.cache_clear()
    yield
    steps.block_lists.cache_clear()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://www.adult.com/page", "block list: domain"),
        ("http://sub.mixed.com/page", "block list: subdomain"),
        ("http://other.mixed.com/page", None),
        ("http://fine.example/not-this", "block list: url"),
        ("http://fine.example/a-banned-word", "block list: hard_blacklisted"),
        ("http://fine.example/xsubwordx", "block list: blacklisted_subword"),
        ("http://fine.example/one/two", "block list: soft_blacklisted"),
        ("http://fine.example/one", None),
        ("http://mine.example/", "block list: domain"),
        ("http://fine.example/mineword", "block list: hard_blacklisted"),
        (None, None),
    ],
)
def test_block_lists_of_datatrove_and_ones_own(url, reason, little_lists, tmp_path):
    step = steps.Address(options.Urls(lists=True, domains=("mine.example",), words=("mineword",)), tmp_path)
    step.start(0, 1)
    document = Document("text", "id", metadata={"url": url} if url else {})
    assert step.judge(document, Tally("urls")) == reason


class StubModel:
    """What the module fasttext gives, as far as it is used."""

    def __init__(self, path: str):
        assert Path(path).is_file()
        self.f = self

    def predict(self, text: str, k: int, threshold: float, on_unicode_error: str) -> list[tuple[float, str]]:
        assert text.endswith("\n")
        assert text.count("\n") == 1
        return [(1.00001, "__label__de" if "Brücke" in text else "__label__en")][:k]


def test_a_model_of_fasttext_is_asked_as_its_library_wants(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", SimpleNamespace(load_model=StubModel))
    (tmp_path / "lid.bin").write_bytes(b"")
    identify = language.fasttext(str(tmp_path / "lid.bin"))
    assert identify(f"{LANGUAGES['de']}\n{LANGUAGES['de']}") == ("de", 1.0)
    assert identify("12 34") == ("und", 0.0)


def test_a_real_model_of_fasttext_tells_languages_apart(tmp_path):
    library = pytest.importorskip("fasttext", reason="fasttext is not installed")
    lines = [f"__label__{code} {LANGUAGES[code]}" for code in LANGUAGES for _ in range(30)]
    (tmp_path / "train.txt").write_text("\n".join(lines), "utf-8")
    model = library.train_supervised(
        str(tmp_path / "train.txt"), epoch=30, minn=2, maxn=4, dim=16, bucket=2000, thread=1
    )
    model.save_model(str(tmp_path / "lid.bin"))
    identify = language.fasttext(str(tmp_path / "lid.bin"))
    assert [identify(text)[0] for text in LANGUAGES.values()] == list(LANGUAGES)


GOOD = prose(120)
FAULTS = {
    "short": prose(20),
    "long": prose(700),
    "short words": "it is to be so we do as an ox or at us and the of with a be " * 3 + "I am in it so be it " * 9,
    "long words": "The of and " + "responsibilities characteristics administration representatives environmental " * 12,
    "symbols": GOOD.replace(" and ", " # # and "),
    "bullets": "\n".join(f"- {line}" for line in GOOD.splitlines()),
    "ellipses": GOOD.replace(".\n", "...\n", 5),
    "not alphabetic": GOOD + " 12 34" * 20,
    "no stop words": " ".join(random.Random(1).choices(VOCABULARY.split(), k=120)),
}  # fmt: skip
BOUNDS = Lengths(max_words=600)


@pytest.mark.parametrize("reason", FAULTS)
def test_each_bound_drops_the_text_made_for_it(reason):
    assert heuristics.quality(FAULTS[reason], BOUNDS) == reason
    assert heuristics.quality(GOOD, BOUNDS) is None


@pytest.mark.parametrize("field", Lengths.__dataclass_fields__)
def test_each_bound_can_be_left_out(field):
    without = {field: None}
    dropped = [heuristics.quality(text, Lengths(**{"max_words": 600} | without)) for text in FAULTS.values()]
    assert len(dropped) - dropped.count(None) >= len(FAULTS) - 2
    reason = {
        "min_words": "short", "max_words": "long", "min_mean_word": "short words", "max_mean_word": "long words",
        "max_symbols": "symbols", "max_bullet_lines": "bullets", "max_ellipsis_lines": "ellipses",
        "min_alphabetic": "not alphabetic", "min_stop_words": "no stop words",
    }[field]  # fmt: skip
    assert reason not in dropped


def test_repetition_by_lines_paragraphs_and_ngrams():
    line = prose(10).splitlines()[0]
    assert heuristics.repetition(GOOD) is None
    assert heuristics.repetition("\n".join([line] * 4 + GOOD.splitlines()[:3])) == "duplicated lines"
    assert heuristics.repetition("\n\n".join([line] * 4 + GOOD.splitlines()[:3])) == "duplicated paragraphs"
    assert heuristics.repetition(" ".join(f"silver harbour {word}" for word in VOCABULARY.split())) == "one 2-gram"
    lines = prose(100).splitlines()
    assert heuristics.repetition(" ".join([*lines, *reversed(lines)])) == "repeated 5-grams"


def test_lines_of_a_log_are_repeated_and_unique_at_once():
    log = [f"error while reading block {n} of the volume: retrying the request in a moment" for n in range(12)]
    flags = heuristics.repeated_lines("\n".join([*GOOD.splitlines()[:3], *log]))
    assert flags == [False] * 4 + [True] * 11
    assert heuristics.without_repeated_lines(GOOD) == (GOOD, [], 0.0)
    text, gone, share = heuristics.without_repeated_lines("\n\n".join(log))
    assert (text.strip(), gone, share) == (log[0], log[1:], 11 / 12)


def test_dirty_words_are_counted_whole_and_as_phrases():
    listed = DirtyWords(["darn", "holy cow", "Ass"])
    assert listed.ratio("Darn, the class assembled; holy cow!") == pytest.approx(2 / 6)
    assert listed.ratio("class passes the holy water to a cow") == 0
    assert DirtyWords([]).ratio("anything") == 0


def test_the_divergence_is_that_of_the_definition_and_finds_strange_tokens():
    texts = [prose(100, seed) for seed in range(60)]
    corpus = sum(map(heuristics.token_histogram, texts))
    usual = [heuristics.divergence(text, corpus) for text in texts]
    strange = heuristics.divergence(" ".join(f"zq{n}xv" for n in range(100)), corpus)
    stuffed = heuristics.divergence("the and have to with " * 20, corpus)
    assert strange > max(usual) + 1
    assert stuffed > 0
    p = heuristics.token_histogram(texts[0]) / heuristics.token_histogram(texts[0]).sum()
    q = (corpus + 1) / (corpus.sum() + heuristics.BUCKETS)
    at = p > 0
    assert usual[0] == pytest.approx((p[at] * np.log(p[at] / q[at])).sum())


PERSONAL = {
    "email": ["jane.doe+news@mail.example.co.uk", "x_1@a-b.org"],
    "phone": ["+44 20 7946 0958", "(555) 123-4567", "555-123-4567", "+1 (212) 555 0147", "030 123 45 67"],
    "ip": ["8.8.4.4", "2001:4860:4860::8888", "2a00:1450:4009:81f::200e"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6011000990139424"],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "NO93 8601 1117 947"],
    "ssn": ["123-45-6789", "078 05 1120"],
}  # fmt: skip
HARMLESS = [
    "4111 1111 1111 1112", "5500-0000-0000-0005", "GB82 WEST 1234 5698 7654 33", "DE8937040044053201300",
    "000-12-3456", "666-12-3456", "192.168.0.1", "127.0.0.1", "999.1.1.1", "3.14159265", "2024-11-24 19:30:00",
    "1,234,567.89", "version 1.2.3", "$5000000", "pages 120-129", "user@localhost", "@name", "a@b", "12:30:45",
    "ISBN 978-3-16-148410-0", "std::vector", "0000 0000 0000 0000", "1234567", "10.1000/182", "1914-1918",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in PERSONAL for value in PERSONAL[kind]])
def test_personal_data_is_found_where_it_stands(kind, value):
    text = f"Then she wrote {value}, and that was all."
    assert pii.find(text) == [(15, 15 + len(value), kind)]
    assert pii.replace(text, pii.find(text)) == f"Then she wrote {pii.PLACEHOLDERS[kind]}, and that was all."


@pytest.mark.parametrize("value", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(value):
    assert pii.find(f"Then she wrote {value} and that was all.") == []


def test_many_findings_in_one_text_stay_apart():
    text = "Mail a@b.org or c@d.org, call +44 20 7946 0958, pay DE89 3704 0044 0532 0130 00 today."
    expected = ["a@b.org", "c@d.org", "+44 20 7946 0958", "DE89 3704 0044 0532 0130 00"]
    assert [text[start:end] for start, end, _ in pii.find(text)] == expected
    assert pii.share(text, pii.find(text)) == pytest.approx(4 / 17)


def test_a_number_of_every_card_passes_luhn_and_its_neighbours_do_not():
    for number in ("4242424242424242", "30569309025904", "3530111333300000"):
        assert pii.luhn(number)
        assert not pii.luhn(number[:-1] + str((int(number[-1]) + 1) % 10))


KIND_OF = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban",
           "IP_ADDRESS": "ip", "US_SSN": "ssn"}  # fmt: skip


@shared
def test_precision_and_recall_on_labelled_sentences():
    with gzip.open(SHARED / "pii/presidio_synth_1500.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    hit, asked, given = defaultdict(int), defaultdict(int), defaultdict(int)
    for row in rows:
        gold = [
            (s["start_position"], s["end_position"], KIND_OF[s["entity_type"]])
            for s in row["spans"]
            if s["entity_type"] in KIND_OF
        ]
        found = pii.find(row["full_text"])
        for start, end, kind in gold:
            asked[kind] += 1
            hit[kind] += any(k == kind and s < end and start < e for s, e, k in found)
        for _, _, kind in found:
            given[kind] += 1
    recall = {kind: round(hit[kind] / asked[kind], 3) for kind in asked}
    precision = {kind: round(hit[kind] / max(1, given[kind]), 3) for kind in asked}
    print("recall", recall, "precision", precision, "labelled", dict(asked))
    assert recall["email"] == recall["iban"] == 1
    assert recall["phone"] >= 0.75
    assert min(precision[kind] for kind in ("email", "card", "iban")) >= 0.95
    assert recall["card"] >= 0.9


@shared
def test_large_languages_of_tatoeba_and_udhr_are_told_apart():
    big = {"eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "jpn": "ja"}
    right, total = defaultdict(int), defaultdict(int)
    with lzma.open(SHARED / "langid/tatoeba_sentences.jsonl.xz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["lang"] in big and total[row["lang"]] < 100:
                total[row["lang"]] += 1
                right[row["lang"]] += language.identify(row["text"])[0] == big[row["lang"]]
    accuracy = {code: right[code] / total[code] for code in total}
    print(accuracy)
    assert len(accuracy) >= 6
    assert np.mean(list(accuracy.values())) > 0.8

"""Curation measured: near duplicates, languages, personal data, classifiers, and speed by step on made-up documents.

    python benchmarks/curation.py dedup|language|pii|quality --data ../shared/data
    python benchmarks/curation.py speed --documents 10000 [--tasks 2]

`speed` runs everything but extraction and prints documents and megabytes a second a core for each step, and
the peak memory of the largest process.
"""

import argparse
import gzip
import json
import lzma
import random
import resource
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from llama_align.curation import dedup, language, options, pii


def rows(path: Path) -> list[dict]:
    with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def near_duplicates(texts: list[str], settings: options.MinHash) -> tuple[list[list[int]], list[tuple]]:
    """Clusters of candidates, and what goes after their Jaccard is checked."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    from llama_align.curation.corpus_steps import Signatures

    config = MinhashConfig(settings.ngrams, settings.buckets, settings.hashes)
    signer = Signatures(Path(tempfile.mkdtemp()), config)
    shingles = [dedup.shingles(text, settings.ngrams) for text in texts]
    buckets = defaultdict(list)
    for number, found in enumerate(shingles):
        for bucket, signature in enumerate(signer.get_signature(found.reshape(-1, 1))):
            buckets[bucket, tuple(signature)].append(number)
    pairs = [pair for held in buckets.values() for pair in pairwise(held)]
    groups = dedup.clusters(pairs)
    gone = [g for group in groups for g in dedup.duplicates([(n, 0, shingles[n]) for n in group], settings.jaccard)]
    return groups, gone


def measure_dedup(data: Path) -> None:
    articles = rows(data / "dedup/onestopenglish_three_levels.jsonl.xz")
    texts, owner = [], []
    for number, row in enumerate(articles):
        levels = row["levels"].values() if isinstance(row["levels"], dict) else row["levels"]
        for level in levels:
            texts.append(level if isinstance(level, str) else level["text"])
            owner.append(number)
    true = sum(n * (n - 1) // 2 for n in Counter(owner).values())
    print(f"{len(articles)} articles at three levels, {true} pairs that are one article")
    for buckets, hashes in ((14, 8), (20, 5), (50, 3), (100, 2)):
        for least in (0.7, 0.5, 0.3, 0.15, 0.05):
            groups, gone = near_duplicates(texts, options.MinHash(buckets=buckets, hashes=hashes, jaccard=least))
            right = sum(owner[a] == owner[b] for a, b, _ in gone)
            found = len(gone)
            print(
                f"buckets {buckets:3} hashes {hashes} jaccard {least:.2f}: {right} of {true * 2 // 3} removed ("
                f"{right / (true * 2 / 3):.3f}), precision {right / found if found else 1:.3f}, "
                f"candidates' recall {_pair_recall(groups, owner, true):.3f}"
            )
    alice = rows(data / "dedup/alice_gutenberg_edition.jsonl.gz")[0]["text"]
    books = [row for row in rows(data / "pretrain/books_standardebooks.jsonl.xz") if "alice" in row["title"].lower()]
    other = "\n".join(row["text"] for row in books)
    similar = dedup.jaccard(dedup.shingles(alice), dedup.shingles(other))
    groups, gone = near_duplicates([alice, other], options.MinHash())
    print(f"Alice, two editions: Jaccard {similar:.3f}, found {bool(gone)} with 14 buckets of 8 at 0.7")


def _pair_recall(groups: list[list[int]], owner: list[int], true: int) -> float:
    return sum(owner[a] == owner[b] for group in groups for a, b in combinations(group, 2)) / true


def code_map() -> dict[str, str]:
    """ISO 639-3 to what py3langid answers, for the languages it knows."""
    return dict(pair.split(":") for pair in CODES.split())


CODES = """
afr:af amh:am arg:an ara:ar asm:as aze:az azj:az bel:be bul:bg ben:bn bre:br bos:bs cat:ca ces:cs cym:cy dan:da deu:de
dzo:dz ell:el eng:en epo:eo spa:es est:et ekk:et eus:eu pes:fa fas:fa fin:fi fao:fo fra:fr gle:ga glg:gl guj:gu heb:he
hin:hi hrv:hr hat:ht hun:hu hye:hy ind:id isl:is ita:it jpn:ja jav:jv kat:ka kaz:kk khm:km kan:kn kor:ko kur:ku kir:ky
lat:la ltz:lb lao:lo lit:lt lav:lv lvs:lv mlg:mg mkd:mk mal:ml mon:mn mar:mr msa:ms zsm:ms mlt:mt nob:nb nep:ne npi:ne
nld:nl nno:nn oci:oc ori:or pan:pa pol:pl pus:ps por:pt que:qu ron:ro rus:ru kin:rw sme:se sin:si slk:sk slv:sl sqi:sq
srp:sr swe:sv swh:sw swa:sw tam:ta tel:te tha:th tgl:tl tur:tr uig:ug ukr:uk urd:ur vie:vi vol:vo wln:wa xho:xh
cmn:zh zul:zu
"""


def accuracy(data: Path, limit: int) -> None:
    known = code_map()
    for name in ("tatoeba_sentences", "udhr_by_language"):
        right, total, started = Counter(), Counter(), time.perf_counter()
        for row in rows(data / f"langid/{name}.jsonl.xz"):
            code = row["lang"]
            if code not in known or total[code] >= limit:
                continue
            total[code] += 1
            found = language.identify(row["text"])[0]
            right[code] += found == known[code] or {found, known[code]} <= {"no", "nb", "nn"}
        spent = time.perf_counter() - started
        by = {code: right[code] / total[code] for code in total}
        worst = sorted(by.items(), key=lambda item: item[1])[:12]
        print(
            f"{name}: {len(by)} languages, {total.total()} texts, accuracy {right.total() / total.total():.3f}, "
            f"mean over languages {np.mean(list(by.values())):.3f}, {total.total() / spent:.0f} texts a second"
        )
        print("  lowest:", ", ".join(f"{code} {share:.2f}" for code, share in worst))
        print("  all:", " ".join(f"{code} {share:.2f}" for code, share in sorted(by.items())))


KIND_OF = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban",
           "IP_ADDRESS": "ip", "US_SSN": "ssn"}  # fmt: skip


def measure_pii(data: Path) -> None:
    asked, hit, given, right = Counter(), Counter(), Counter(), Counter()
    started, size = time.perf_counter(), 0
    for row in rows(data / "pii/presidio_synth_1500.jsonl.gz"):
        gold = [(s["start_position"], s["end_position"], KIND_OF.get(s["entity_type"])) for s in row["spans"]]
        found = pii.find(row["full_text"])
        size += len(row["full_text"])
        for start, end, kind in gold:
            if kind:
                asked[kind] += 1
                hit[kind] += any(k == kind and s < end and start < e for s, e, k in found)
        for start, end, kind in found:
            given[kind] += 1
            right[kind] += any(k == kind and s < end and start < e for s, e, k in gold)
    print(f"{size / 1e6 / (time.perf_counter() - started):.1f} MB a second")
    for kind in sorted(asked):
        print(
            f"{kind:6} {asked[kind]:4} labelled: recall {hit[kind] / asked[kind]:.3f}, precision "
            f"{right[kind] / max(1, given[kind]):.3f}"
        )


def measure_quality(data: Path, limit: int) -> None:
    """Passages of textbooks against chat messages, of one length: agreement with the labels, and speed."""
    import torch

    from llama_align.chat import train_tokenizer
    from llama_align.curation.classify import Light
    from llama_align.curation.heavy import Heavy
    from llama_align.curation.labels import agreement

    good = [row["text"] for row in rows(data / "pretrain/textbooks_openstax.jsonl.xz")[:limit]]
    bad = [row["text"] for row in rows(data / "pretrain/dialogue_oasst1_en_messages.jsonl.xz")[: 8 * limit]]
    texts, labels = [], []
    for text in good:  # passages of a length, so that length tells nothing
        texts.append(text[2000:3000])
        labels.append("good")
    for at in range(0, len(bad), 8):
        texts.append("\n".join(bad[at : at + 8])[:1000])
        labels.append("bad")
    torch.set_num_threads(1)  # the heavy one is small
    order = random.Random(0).sample(range(len(texts)), len(texts))
    texts, labels = [texts[i] for i in order], [labels[i] for i in order]
    cut = 4 * len(texts) // 5
    tokenizer = train_tokenizer(texts[:cut], 2048, num_special_tokens=16)
    for name, train in (
        ("light", lambda: Light.train(texts[:cut], labels[:cut])),
        ("heavy", lambda: Heavy.train(texts[:cut], labels[:cut], tokenizer, epochs=2, context=128)),
    ):
        started = time.perf_counter()
        made = train()
        trained = time.perf_counter() - started
        started = time.perf_counter()
        found = made.labels(texts[cut:])
        spent = time.perf_counter() - started
        measured = agreement(labels[cut:], found)
        shown = ", ".join(f"{key} {value:.3f}" for key, value in measured.items())
        print(f"{name}: {len(texts) - cut} held out, {shown}")
        print(f"  trained in {trained:.1f} s, {(len(texts) - cut) / spent:.0f} documents a second")


def made_up(count: int, path: Path) -> int:
    """Documents of about 60 words, one in twenty a copy with a change, one in fifty an old version of a URL."""
    draw = random.Random(0)
    syllables = ["ba", "do", "ki", "lu", "me", "no", "ra", "si", "te", "vu", "zo", "qui"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8000)]
    words[:8] = ["the", "and", "of", "to", "that", "with", "have", "be"]
    weights = np.cumsum(1 / np.arange(1, len(words) + 1)).tolist()
    size, last = 0, ""
    with open(path, "w") as file:
        for n in range(count):
            if n % 20 == 19:
                text = last + " more"
            else:
                found = draw.choices(words, cum_weights=weights, k=60)
                text = "\n".join(" ".join(found[at : at + 12]) + "." for at in range(0, 60, 12))
            last = text
            url = f"http://site{n % 997}.example/{n - 1 if n % 50 == 49 else n}"
            row = {"text": text, "url": url, "date": f"20{n % 20 + 10}-01-01"}
            size += file.write(json.dumps(row) + "\n")
    return size


def measure_speed(count: int, tasks: int, folder: Path | None) -> None:
    from llama_align.curation.executors import Executor
    from llama_align.curation.pipeline import Pipeline
    from llama_align.curation.reading import Source

    work = Path(tempfile.mkdtemp(dir=folder))
    size = made_up(count, work / "in.jsonl")
    pipeline = Pipeline(
        work / "out",
        [Source.parse(str(work / "in.jsonl"))],
        urls=options.Urls(lists=False),
        language=options.Languages(default=0.0),
        heuristics=options.Heuristics(bounds={"min_words": 20, "min_stop_words": None}),
        pii=options.Personal(),
        minhash=options.MinHash(),
        lines=options.Lines(),
    )
    started = time.perf_counter()
    metrics = pipeline.run(Executor("local", tasks, tasks))
    spent = time.perf_counter() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    print(f"{count} documents, {size / 1e6:.0f} MB, {tasks} tasks: {spent:.1f} s, {1e6 * spent / count:.0f} µs each")
    print(f"  {metrics['documents']} left, largest process {peak:.2f} GB")
    ledger = {step["name"]: step for step in json.loads((work / "out/ledger.json").read_text())["steps"]}
    for name, seconds in json.loads((work / "out/timings.json").read_text()).items():
        step = ledger[name]
        if seconds > 0.01:
            documents, megabytes = step["documents_in"] / seconds, step["characters_in"] / 1e6 / seconds
            print(f"  {name:16} {documents:9.0f} documents, {megabytes:7.2f} MB a second a core")
    shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["dedup", "language", "pii", "quality", "speed"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=200, help="texts of each language; of each class")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    if args.part == "speed":
        measure_speed(args.documents, args.tasks, args.folder)
    elif args.part == "language":
        accuracy(args.data, args.limit)
    elif args.part == "quality":
        measure_quality(args.data, args.limit)
    else:
        {"dedup": measure_dedup, "pii": measure_pii}[args.part](args.data)


if __name__ == "__main__":
    main()

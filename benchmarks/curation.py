"""Curation measured: near duplicates, near meanings, kinds of pages, languages, personal data, classifiers.

python benchmarks/curation.py dedup|meanings|kinds|language|pii|quality --data ../shared/data
"""

import argparse
import gzip
import json
import lzma
import random
import tempfile
import time
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from llama_align.curation import dedup, kinds, language, options, pii, semantic


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
    gone = [g for group in groups for g in dedup.duplicates([(n, shingles[n]) for n in group], settings.jaccard)]
    return groups, gone


def three_levels(data: Path) -> tuple[list[str], list[int]]:
    """Texts, and which article each is."""
    texts, owner = [], []
    for number, row in enumerate(rows(data / "dedup/onestopenglish_three_levels.jsonl.xz")):
        levels = row["levels"].values() if isinstance(row["levels"], dict) else row["levels"]
        for level in levels:
            texts.append(level if isinstance(level, str) else level["text"])
            owner.append(number)
    return texts, owner


def measure_meanings(data: Path) -> None:
    """The same rewritings by their vectors of words, in one cluster and in several."""
    texts, owner = three_levels(data)
    others = [row["text"] for row in rows(data / "pretrain/textbooks_openstax.jsonl.xz")[:600]]
    wanted = len(texts) - len(set(owner))
    for clusters in (1, 10):
        space = semantic.Space.fit(texts + others, None, 128, clusters)
        vectors = space.vectors(texts + others)
        of = semantic.nearest(vectors, space.centres)
        for least in (0.95, 0.9, 0.85, 0.8, 0.7):
            gone = []
            for cluster in range(clusters):
                members = np.flatnonzero(of == cluster)
                gone += [(members[a], members[b]) for a, b, _ in semantic.near(vectors[members], least)]
            within = [(a, b) for a, b in gone if a < len(texts)]
            right = sum(b < len(texts) and owner[a] == owner[b] for a, b in within)
            precision, chapters = right / max(1, len(within)), len(gone) - len(within)
            print(f"{clusters:2} clusters, cosine {least}: {right} of {wanted} rewritings ({right / wanted:.3f}), "
                  f"precision {precision:.3f}; {chapters} of 600 chapters")  # fmt: skip


def measure_kinds(data: Path) -> None:
    """What the rule calls texts of books whose kind is known, and the pages' texts that people took out."""
    for name in ("techdocs_rust_book", "maths_openstax_algebra", "textbooks_openstax", "books_standardebooks",
                 "dialogue_oasst1_en_messages", "qa_stackexchange_threads"):  # fmt: skip
        found = rows(data / f"pretrain/{name}.jsonl.xz")[:600]
        counts = Counter(kinds.kind_of(row.get("text") or row["question"]) for row in found)
        print(name, {kind: round(count / len(found), 3) for kind, count in counts.most_common()})
    for kind in ("documentation", "article", "forum"):
        found = [r for r in rows(data / "html/wcxb_dev_gold.jsonl.xz") if r["page_type"] == kind]
        print("WCXB", kind, Counter(kinds.kind_of(row["main_content"]) for row in found))


def measure_dedup(data: Path) -> None:
    texts, owner = three_levels(data)
    true = sum(n * (n - 1) // 2 for n in Counter(owner).values())
    print(f"{len(set(owner))} articles at three levels, {true} pairs that are one article")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["dedup", "meanings", "kinds", "language", "pii", "quality"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, default=200, help="texts of each language; of each class")
    args = parser.parse_args()
    if args.part == "language":
        accuracy(args.data, args.limit)
    elif args.part == "quality":
        measure_quality(args.data, args.limit)
    else:
        parts = {"dedup": measure_dedup, "meanings": measure_meanings, "kinds": measure_kinds, "pii": measure_pii}
        parts[args.part](args.data)


if __name__ == "__main__":
    main()

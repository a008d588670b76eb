"""Extraction beside trafilatura alone, resiliparse and readability on pages with gold text, in one run.

    python benchmarks/curation_extract.py --data ../shared/data/html [--pages 60] [--json out.json]
    python benchmarks/curation_extract.py --fixtures tests/curation/pages

`--fixtures` counts the formulas and code blocks that are kept of the hand-made pages.

Needs `pip install resiliparse readability-lxml` beside the extra `curation`. Word F1 (bags of words) on WCXB and
readability's pages; on trafilatura's pages the F1 of segments that must and must not be there. Two times: seconds a
page of the whole set.
"""

import argparse
import gzip
import json
import lzma
import re
import tarfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

WORD = re.compile(r"\w+")
# no gold text has its page's formulas, so that words of TeX would count as wrong
FORMULA = re.compile(r"\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
GOLD = {
    "wcxb_dev": "wcxb_dev_gold.jsonl.xz",
    "readability": "readability_gold_text.jsonl.gz",
    "trafilatura": "trafilatura_gold_segments.jsonl.gz",
}


def ours(html: bytes) -> str:
    from llama_align.curation.extract import extract

    return extract(html)


def trafilatura_alone(html: bytes) -> str:
    import trafilatura

    return trafilatura.extract(html, include_comments=True) or ""


def resiliparse(html: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return extract_plain_text(bytes_to_str(html, detect_encoding(html)), main_content=True, alt_texts=True)


def readability(html: bytes) -> str:
    from lxml.html import document_fromstring
    from readability import Document

    return document_fromstring(Document(html).summary()).text_content()


EXTRACTORS = {
    "ours": ours,
    "ours_with_formulas": ours,  # "ours" is scored without them
    "trafilatura": trafilatura_alone,
    "resiliparse": resiliparse,
    "readability": readability,
}


def word_f1(found: str, gold: str) -> float:
    a, b = Counter(WORD.findall(found.lower())), Counter(WORD.findall(gold.lower()))
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else float(a == b)


def segment_counts(found: str, row: dict) -> tuple[int, int, int]:
    """True positives, false negatives and false positives, as trafilatura's own evaluation counts them."""
    text = " ".join(found.split())
    kept = sum(" ".join(part.split()) in text for part in row["with"])
    wrong = sum(" ".join(part.split()) in text for part in row["without"])
    return kept, len(row["with"]) - kept, wrong


def rows(path: Path) -> list[dict]:
    with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pages(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile()}


def run(extractor, html: bytes) -> tuple[str, float]:
    started = time.perf_counter()
    try:
        text = extractor(html)
    except Exception:  # another's extractor may raise anything; the page then counts as empty
        text = ""
    return text, time.perf_counter() - started


def interval(values: list[float], seed: int = 0) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    means = [np.mean(draw.choice(values, len(values))) for _ in range(1000)]
    return tuple(np.quantile(means, [0.025, 0.975]))


def count_fixtures(folder: Path, names: list[str]) -> None:
    """Formulas that come out as their TeX, each once, spaces aside; code blocks with all their spaces and lines."""
    expected = [json.loads(line) for line in (folder / "expected.jsonl").read_text("utf-8").splitlines()]
    for name in names:
        kept, asked = Counter(), Counter()
        for row in expected:
            text = run(EXTRACTORS[name], (folder / f"{row['page']}.html").read_bytes())[0]
            asked.update(formulas=len(row["formulas"]), code=len(row["code"]))
            joined = "".join(text.split())
            kept["formulas"] += sum(joined.count("".join(formula.split())) == 1 for formula in row["formulas"])
            kept["code"] += sum(f"\n{code}\n" in f"\n{text}\n" for code in row["code"])
        print(name, ", ".join(f"{kept[kind]} of {asked[kind]} {kind}" for kind in asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument("--pages", type=int, default=None, help="of each set, evenly spaced (default: all)")
    parser.add_argument("--types", default=None, help="WCXB's pages of these types alone: documentation,forum")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--extractors", default=",".join(EXTRACTORS))
    args = parser.parse_args()
    names = args.extractors.split(",")
    if args.fixtures:
        count_fixtures(args.fixtures, [name for name in names if name != "ours_with_formulas"])
        return
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds, size = defaultdict(float), 0
    counts = defaultdict(lambda: np.zeros(3, int))
    for name in names:  # imports are nobody's time
        run(EXTRACTORS[name], b"<html><body><p>Some text to begin with.</p></body></html>")
    types = args.types and args.types.split(",")
    for dataset, gold_file in GOLD.items():
        if types and dataset != "wcxb_dev":
            continue
        html = pages(args.data / f"{dataset}_pages.tar.xz")
        gold = [row for row in rows(args.data / gold_file) if row["file"] in html]
        gold = [row for row in gold if not types or row["page_type"] in types]
        gold = gold[:: max(1, len(gold) // args.pages)] if args.pages else gold
        for row in gold:
            size += len(html[row["file"]])
            whole = ""
            for name in names:
                if name == "ours_with_formulas":
                    text, taken = whole, 0.0
                else:
                    text, taken = run(EXTRACTORS[name], html[row["file"]])
                if name == "ours":
                    whole, text = text, FORMULA.sub("", text)
                seconds[name] += taken
                if dataset == "trafilatura":
                    counts[name] += segment_counts(text, row)
                    continue
                f1 = word_f1(text, row.get("main_content") or row.get("expected_text") or "")
                for part in (dataset, f"{dataset}/{row['page_type']}") if dataset == "wcxb_dev" else (dataset,):
                    scores[part][name].append(f1)
    out = {}
    for part in sorted(scores):
        line = {name: round(fmean(values), 4) for name, values in scores[part].items()}
        pages_of = len(scores[part][names[0]])
        difference = [a - b for a, b in zip(scores[part][names[0]], scores[part]["trafilatura"], strict=True)]
        low, high = interval(difference)
        out[part] = {"pages": pages_of, **line, "difference_95": [round(low, 4), round(high, 4)]}
        shown = " ".join(f"{name} {value:.4f}" for name, value in line.items())
        print(f"{part:28} {pages_of:4} {shown} [{low:+.4f}, {high:+.4f}]")
    for name in names:
        true, missed, wrong = counts[name]
        out.setdefault("trafilatura segments", {})[name] = round(2 * true / max(1, 2 * true + missed + wrong), 4)
    print("trafilatura segments", out["trafilatura segments"])
    out["megabytes_per_second"] = {name: round(size / 1e6 / seconds[name], 2) for name in names if seconds[name]}
    print("MB/s", out["megabytes_per_second"])
    if args.json:
        args.json.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()

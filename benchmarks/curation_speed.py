"""Speed of curation, documents and MB a second of a processor's time, which other work hardly changes.

    python benchmarks/curation_speed.py pipeline --documents 10000 100000 1000000 [--tasks 2] [--semantic]
    python benchmarks/curation_speed.py beside --data ../shared/data [--documents 1000] [--pages 20]

`pipeline`: made-up documents through everything but extraction; time a document and the largest process' memory.
`beside`: each step beside datatrove's own block on the same texts, and extraction beside trafilatura alone, in one run.
datatrove's blocks split words with spaCy (pip install spacy); its language filter needs a model from the network.
"""

import argparse
import contextlib
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from curation_extract import pages, rows, trafilatura_alone
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig

from llama_align.curation import corpus_steps, dedup, options, steps
from llama_align.curation.executors import Executor
from llama_align.curation.extract import extract
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source


def usages() -> list[resource.struct_rusage]:
    """Of this process, in which stages of one task run, and of the children that have ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def used() -> float:
    """Seconds of processors."""
    return sum(usage.ru_utime + usage.ru_stime for usage in usages())


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
            url = f"http://site{n // 20}.example/{n - 1 if n % 50 == 49 else n}"
            size += file.write(json.dumps({"text": text, "url": url, "date": f"20{n % 20 + 10}-01-01"}) + "\n")
    return size


def measure_pipeline(count: int, tasks: int, semantic: bool, folder: Path | None) -> None:
    work = Path(tempfile.mkdtemp(dir=folder))
    size = made_up(count, work / "in.jsonl")
    pipeline = Pipeline(
        work / "out",
        [Source.parse(str(work / "in.jsonl"))],
        urls=options.Urls(lists=False),
        language=options.Languages(default=0.0),
        kinds=options.Kinds(),
        heuristics=options.Heuristics(bounds={"min_words": 20, "min_stop_words": None}),
        pii=options.Personal(),
        minhash=options.MinHash(),
        lines=options.Lines(),
        semantic=options.Semantic() if semantic else None,
    )
    started, before = time.monotonic(), used()
    with mock.patch("time.perf_counter", time.process_time):  # what the ledger's seconds are made of
        metrics = pipeline.run(Executor("local", tasks, tasks))
    spent, peak = used() - before, max(usage.ru_maxrss for usage in usages()) / 1e6
    print(f"\n{count:,} documents, {size / 1e6:.0f} MB: {1e6 * spent / count:.0f} µs of a processor each, in all "
          f"{spent:.0f} s ({time.monotonic() - started:.0f} s by the clock), largest process {peak:.2f} GB, "
          f"{metrics['documents']:,} left", flush=True)  # fmt: skip
    ledger = {step["name"]: step for step in json.loads((work / "out/ledger.json").read_text())["steps"]}
    times = json.loads((work / "out/timings.json").read_text())
    for name, seconds in times.items():
        step = ledger[name]
        if seconds > 1e-6 * step["documents_in"]:
            rate, megabytes = step["documents_in"] / seconds, step["characters_in"] / 1e6 / seconds
            print(f"  {name:16} {rate:9.0f} documents, {megabytes:7.2f} MB a second a core", flush=True)
    print(f"  files, signatures and decisions: {1e6 * (spent - sum(times.values())) / count:.0f} µs a document")
    shutil.rmtree(work)


def texts_of(data: Path, count: int) -> list[Document]:
    """Chapters, threads and messages, a third each, with made-up addresses."""
    found = []
    for name in ("textbooks_openstax", "qa_stackexchange_threads", "stories_african_pratham_en"):
        for row in rows(data / f"pretrain/{name}.jsonl.xz")[: count // 3]:
            text = row.get("text") or "\n".join([row["question"], *(answer["text"] for answer in row["answers"])])
            url = f"http://site{len(found) % 97}.example/{len(found)}"
            known = {"url": url, "place": len(found), "tokens": 0, "bucket": 0}
            found.append(Document(text[:20_000], str(len(found)), metadata=known))
    return found


def blocks(folder: Path) -> Iterator[tuple[str, list, list]]:
    """(name, our steps, datatrove's)."""
    from datatrove.pipeline.dedup import SentDedupConfig, SentenceDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, URLFilter
    from datatrove.pipeline.formatters import PIIFormatter

    looks = options.Heuristics(coverage=None, divergence=None)
    lists = URLFilter(use_integrated_lists=False, extra_domains={"blocked.example"})
    lists.tldextractor = steps.block_lists(False, ("blocked.example",), ()).tldextractor  # no network
    yield "URLs", [steps.Address(options.Urls(lists=False, domains=("blocked.example",)), folder)], [lists]
    yield "language", [steps.Language(options.Languages(default=0.0), folder)], []
    yield "heuristics", [steps.Looks(looks, folder)], [GopherQualityFilter(), GopherRepetitionFilter()]
    yield "line coverage", [steps.Looks(options.Heuristics({**NO_BOUNDS}, False, divergence=None), folder)], []
    yield "personal data", [steps.Pii(options.Personal(), folder)], [PIIFormatter()]
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    yield ("signatures", [corpus_steps.Signatures(folder / "ours", config)],
           [MinhashDedupSignature(str(folder / "theirs"), config)])  # fmt: skip
    yield ("lines", [corpus_steps.CountLines(folder / "lines", folder, "none", options.Lines())],
           [SentenceDedupSignature(str(folder / "sentences"), config=SentDedupConfig())])  # fmt: skip


NO_BOUNDS = dict.fromkeys(
    ("min_words", "max_words", "min_mean_word", "max_mean_word", "max_symbols", "max_bullet_lines",
     "max_ellipsis_lines", "min_alphabetic", "min_stop_words")
)  # fmt: skip


def measure_beside(data: Path, count: int, per_set: int, folder: Path | None) -> None:
    work = Path(tempfile.mkdtemp(dir=folder))
    texts = texts_of(data, count)
    size = sum(len(document.text.encode()) for document in texts) / 1e6
    print(f"{len(texts)} texts, {size:.1f} MB; a second of a core, ours and datatrove's\n")
    print("| step | ours: documents | MB | datatrove: documents | MB |\n|---|---|---|---|---|")
    for name, ours, theirs in blocks(work):
        cells = [rate(pipeline, texts, size) for pipeline in (ours, theirs)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    shutil.rmtree(work)
    sets = [pages(data / f"html/{name}_pages.tar.xz") for name in ("wcxb_dev", "trafilatura", "readability")]
    html = [page for of_set in sets for page in list(of_set.values())[:: max(1, len(of_set) // per_set)]]
    size, spent = sum(map(len, html)) / 1e6, {}
    for page in html[:3]:
        extract(page)
        trafilatura_alone(page)
    for name, extractor in (
        ("trafilatura", trafilatura_alone),
        ("ours", extract),
        ("trafilatura again", trafilatura_alone),
    ):
        before = used()
        for page in html:
            with contextlib.suppress(Exception):
                extractor(page)
        spent[name] = used() - before
    before = used()
    step = steps.Extract(options.Extraction(timeout=60), Path(tempfile.mkdtemp(dir=folder)))
    list(step.run(Document(page, str(n), metadata={"tokens": 0}) for n, page in enumerate(html)))
    spent["ours in its sandbox"] = used() - before
    print(f"\n{len(html)} pages, {size:.1f} MB\n\n| extraction | pages | MB |\n|---|---|---|")
    for name, seconds in spent.items():
        print(f"| {name} | {len(html) / seconds:.1f} | {size / seconds:.2f} |")


def rate(pipeline: list, texts: list[Document], size: float) -> str:
    """Documents and megabytes a second of a core through the steps; each sees all of them."""
    if not pipeline:
        return "- | -"
    run = [[Document(d.text, d.id, metadata=dict(d.metadata)) for d in texts] for _ in (0, 1)]
    spent = 0.0
    for step in pipeline:
        for documents in (run[0][:20], run[1]):  # what is loaded once is loaded with the first
            dedup.words.cache_clear()
            before = used()
            for _ in step.run(iter(documents), 0, 1) or ():
                pass
            last = used() - before
        spent += last
    return f"{len(texts) / spent:,.0f} | {size / spent:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["pipeline", "beside"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--documents", type=int, nargs="+", default=[1000])
    parser.add_argument("--pages", type=int, default=20, help="of each set, about")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--semantic", action="store_true", help="near meanings, too")
    parser.add_argument("--folder", type=Path, default=None, help="for what is written meanwhile")
    args = parser.parse_args()
    if args.part == "beside":
        measure_beside(args.data, args.documents[0], args.pages, args.folder)
    for count in args.documents if args.part == "pipeline" else ():
        measure_pipeline(count, args.tasks, args.semantic, args.folder)


if __name__ == "__main__":
    main()

"""Does curation help a model? Bits per byte on clean text after pretraining on equally many tokens of each step.

    python benchmarks/curation_helps.py --data ../shared/data --output_dir runs/helps [--seeds 0 1 2] [--report]

The crawl is the pages of shared/data/html without every fifth domain, whose gold text is held out. Benchmarks have each
page once, a crawl has not: a page is there 1 + k times with probability 2^-(k+1), every second time at another address.
Arms are cumulative. A seed draws weights and the order of documents, the same for all arms; nothing is run twice.
"""

import argparse
import gzip
import json
import lzma
import math
import statistics
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
from lxml import html
from scipy.stats import t
from transformers import AutoTokenizer, set_seed

from llama_align.chat import train_tokenizer
from llama_align.curation import options
from llama_align.curation.classify import Light
from llama_align.curation.executors import Executor
from llama_align.curation.language import identify
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source
from llama_align.curation.urls import domain
from llama_align.curation.words import hash64
from llama_align.data import load_records, write_jsonl
from llama_align.data.packing import pack
from llama_align.models import LlamaHerdForCausalLM, preset
from llama_align.runtime.files import write_json
from llama_align.sampling.likelihood import negative_log_likelihood
from llama_align.trainers import PretrainConfig, PretrainTrainer

ARMS = ("all text", "extraction", "heuristics", "duplicates", "quality")
SETS = {"wcxb_dev": "wcxb_dev_gold.jsonl.xz", "trafilatura": "trafilatura_gold_segments.jsonl.gz", "readability": None}
CONTEXT, ROWS, RATE, KEPT = 256, 2, 3e-3, 0.6  # few rows a step: of so few tokens many steps learn more
HELD_CHARACTERS = 60_000  # of each held-out set, documents cut to 5,000
HELD = {
    "wikitext": ("wikipedia_wikitext2_valid.jsonl.xz", [0, 1]),
    "textbooks": ("textbooks_openstax.jsonl.xz", [0.98, 1]),
}


def rows_of(path: Path) -> list[dict]:
    with {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def is_held(url: str | None) -> bool:
    return bool(url) and hash64(domain(url)) % 5 == 0


def everything(page: bytes) -> str:
    """All text that a page has between its tags, as one would have it without an extractor."""
    try:
        tree = html.document_fromstring(page)
    except (ValueError, html.etree.LxmlError):
        return ""
    html.etree.strip_elements(tree, "script", "style", "noscript", with_tail=False)
    lines = (" ".join(line.split()) for line in tree.text_content().splitlines())
    return "\n".join(line for line in lines if line)


def fetches(rows: list[dict]) -> list[dict]:
    """Each page as often as a crawl has it: the same address at another date, or a copy elsewhere."""
    found = []
    for row in rows:
        draw = hash64(row["name"])
        for number in range(1 + (draw & -draw).bit_length() - 1 if draw else 1):
            copy = f"http://copy{number}-{draw % 997}.example/{row['name']}"
            found.append(row | {"url": copy if number % 2 else row["url"], "date": f"{2015 + number % 10}-01-01"})
    return found


def make_crawl(data: Path, work: Path) -> None:
    """crawl.jsonl (extracted) and tags.jsonl (all text), both with their repetitions; heldout.jsonl."""
    pages, held = [], []
    for name, gold in SETS.items():
        known = {row["file"]: row for row in rows_of(data / "html" / gold)} if gold else {}
        held += [row for row in known.values() if is_held(row["url"]) and row.get("main_content")]
        with tarfile.open(data / f"html/{name}_pages.tar.xz") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                row = known.get(Path(member.name).name, {})
                if not is_held(row.get("url")):
                    url = row.get("url") or f"http://{name}.example/{Path(member.name).name}"
                    pages.append(
                        {"name": f"{name}-{Path(member.name).name}", "url": url, "page": tar.extractfile(member).read()}
                    )
    write_jsonl(
        work / "tags.jsonl",
        fetches([{"name": p["name"], "url": p["url"], "text": everything(p["page"])} for p in pages]),
    )
    for page in pages:
        (work / "pages").mkdir(exist_ok=True)
        (work / "pages" / f"{page['name'].removesuffix('.html')}.html").write_bytes(page["page"])
    urls = {page["name"].removesuffix(".html"): page["url"] for page in pages}
    Pipeline(work / "extracted", [Source.parse(str(work / "pages"))]).run(Executor("local", 1, 1))
    ids = rows_of_corpus(work / "extracted", named=True)
    write_jsonl(work / "crawl.jsonl", fetches([{"name": n, "url": urls[n], "text": text} for n, text in ids]))
    clean = [row["main_content"] for row in held if identify(row["main_content"])[0] == "en"]
    write_jsonl(work / "heldout.jsonl", [{"set": "held-out pages", "text": text} for text in clean])


def rows_of_corpus(folder: Path, named: bool = False) -> list:
    """Texts of a corpus; with the names of their pages, from the shards that have them."""
    if not named:
        return [row["text"] for path in sorted(folder.glob("corpus-*.gz")) for row in rows_of(path)]
    shards = sorted(folder.glob("work/*/*-select/*.jsonl"))
    return [(Path(row["id"]).stem, row["text"]) for path in shards for row in rows_of(path)]


def curate(work: Path, data: Path) -> dict[str, list[str]]:
    """Texts of each arm; what a step left is in <arm>/ledger.json."""
    steps: dict = {}
    found = {"all text": [row["text"] for row in rows_of(work / "tags.jsonl") if row["text"]],
             "extraction": [row["text"] for row in rows_of(work / "crawl.jsonl")]}  # fmt: skip
    dirty = str(data / "filters/badwords_ldnoobw/en.txt")
    for arm in ARMS[2:]:
        if arm == "heuristics":
            steps |= {
                "language": options.Languages(keep=("en",)),
                "heuristics": options.Heuristics(dirty_words=(dirty,)),
            }
        elif arm == "duplicates":
            steps |= {"urls": options.Urls(lists=False), "minhash": options.MinHash(), "lines": options.Lines()}
        else:
            steps["quality"] = classifier(work, data, found["duplicates"])
        Pipeline(work / arm, [Source.parse(str(work / "crawl.jsonl"))], **steps).run(Executor("local", 1, 1))
        found[arm] = rows_of_corpus(work / arm)
    return found


def classifier(work: Path, data: Path, pages: list[str]) -> options.Quality:
    """Textbooks and answered questions against the pages themselves, by passages of a length; the best share stays."""
    folder = str(data / "pretrain")
    good = [{"path": f"{folder}/textbooks_openstax.jsonl.xz", "part": [0, 0.3]},
            {"path": f"{folder}/qa_stackexchange_threads.jsonl.xz", "part": [0, 0.2], "skip": "count",
             "columns": {"text": "{title}\n\n{question}\n\n{answers[0][text]}"}}]  # fmt: skip
    texts = [document.text[:1500] for document in load_records(good, "document", seed=0)[0]]
    labels = ["good"] * len(texts) + ["bad"] * len(pages)
    light = Light.train(texts + [text[:1500] for text in pages], labels)
    light.save(work / "light.safetensors")
    scores, sizes = light.probabilities(pages)[:, -1], np.array([len(text) for text in pages])
    order = np.argsort(-scores)
    last = np.searchsorted(np.cumsum(sizes[order]), KEPT * sizes.sum())
    return options.Quality(str(work / "light.safetensors"), float(scores[order[last]]) - 5e-5)


def heldout(work: Path, data: Path) -> dict[str, list[str]]:
    found = {"held-out pages": [row["text"] for row in rows_of(work / "heldout.jsonl")]}
    for name, (file, part) in HELD.items():
        documents, _ = load_records([{"path": str(data / "pretrain" / file), "part": part}], "document")
        found[name] = [document.text for document in documents]
    for name, texts in found.items():
        cut = [text[:5000] for text in texts]
        found[name] = cut[: int(np.searchsorted(np.cumsum([len(text) for text in cut]), HELD_CHARACTERS)) + 1]
    return found


def bits_per_byte(model, tokenizer, texts: list[str]) -> float:
    """Of pieces of a context, each after a begin of text, so that every token is predicted."""
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    pieces = [
        [tokenizer.bos_token_id, *ids[at : at + CONTEXT - 1]]
        for ids in encoded
        for at in range(0, len(ids), CONTEXT - 1)
    ]
    sums, _ = negative_log_likelihood(model, pieces)
    return sum(sums) / math.log(2) / sum(len(text.encode()) for text in texts)


def train(texts: list[str], tokenizer, args: argparse.Namespace, seed: int):
    """A model on so many tokens of the documents in the seed's order, anew from the start where they end."""
    set_seed(seed)
    size = {"num_hidden_layers": args.layers, "hidden_size": args.width, "intermediate_size": 3 * args.width}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = LlamaHerdForCausalLM(preset("herd-nano", vocab_size=len(tokenizer), **size, **special))
    draw, ids, held = np.random.default_rng(seed), [], 0
    while held < args.tokens:
        for number in draw.permutation(len(texts)):
            found = tokenizer(texts[number], add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids.append([tokenizer.bos_token_id, *found, tokenizer.eos_token_id])
            held += len(ids[-1])
            if held >= args.tokens:
                break
    rows = pack(ids, CONTEXT, "concat")[: args.tokens // CONTEXT]
    rows = [{name: row[name].tolist() for name in ("input_ids", "labels", "position_ids")} for row in rows]
    config = PretrainConfig(
        str(args.output_dir / "trainer"),
        per_device_train_batch_size=ROWS,
        num_train_epochs=1,
        learning_rate=RATE,
        warmup_steps=0.05,
        save_strategy="no",
        logging_steps=500,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
    )
    PretrainTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train()
    return model


def half(values: list[float]) -> float:
    """Of Student's 95% interval."""
    return t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def interval(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {half(values):.4f}"


def draw(path: Path, arms: list[str], found: dict[str, dict[str, list[float]]]) -> None:
    """For each held-out set how far each arm is from all text, seed by seed, with the interval of the mean."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "helps", "font.size": 9}):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        for axes, (name, values) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
            for place, arm in enumerate(arms):
                change = [b - a for a, b in zip(values[arms[0]], values[arm], strict=True)]
                axes.errorbar(statistics.mean(change), place, xerr=half(change), color="#2b6cb0", marker="o", capsize=3)
                axes.scatter(change, [place + 0.2] * len(change), 9, color="#8593a3")
            axes.axvline(0, color="#d9dde3", zorder=0)
            axes.set_yticks(range(len(arms)), arms)
            axes.set(title=name, ylim=(len(arms) - 0.5, -0.5))
            axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(f"bits per byte, less those of a model of {arms[0]} (seeds in grey, 95% interval of the mean)")
        figure.savefig(path, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))


def report(work: Path, picture: Path | None) -> None:
    """Means over seeds with Student's 95% intervals; the change from the arm above is paired by seed."""
    runs = {(r["arm"], r["seed"]): r for r in (json.loads(p.read_text()) for p in sorted(work.glob("run-*.json")))}
    arms = [arm for arm in ARMS if any(a == arm for a, _ in runs)]
    seeds = sorted({seed for _, seed in runs if all((arm, seed) in runs for arm in arms)})
    names = list(next(iter(runs.values()))["bits_per_byte"])
    print(f"seeds {seeds}\n\n| arm | MB | passes | " + " | ".join(f"{name} | change" for name in names) + " |")
    print("|---" * (3 + 2 * len(names)) + "|")
    for number, arm in enumerate(arms):
        cells = [arm, f"{runs[arm, seeds[0]]['megabytes']:.2f}", f"{runs[arm, seeds[0]]['passes']:.2f}"]
        for name in names:
            found = {a: [runs[a, seed]["bits_per_byte"][name] for seed in seeds] for a in arms}
            cells.append(interval(found[arm]))
            before = found[arms[number - 1]]
            cells.append(interval([b - a for a, b in zip(before, found[arm], strict=True)]) if number else "")
        print("| " + " | ".join(cells) + " |")
    if picture:
        values = {n: {a: [runs[a, s]["bits_per_byte"][n] for s in seeds] for a in arms} for n in names}
        draw(picture, arms, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=800_000, help="of each run")
    parser.add_argument("--layers", type=int, default=4, help="herd-nano has 4")
    parser.add_argument("--width", type=int, default=128, help="herd-nano has 128")
    parser.add_argument("--vocabulary", type=int, default=1024, help="of the tokenizer, from the extracted pages")
    parser.add_argument("--report", action="store_true", help="only the table of what is there")
    parser.add_argument("--picture", type=Path, help="an SVG of the changes")
    args = parser.parse_args()
    work = args.output_dir
    if args.report:
        report(work, args.picture)
        return
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "crawl.jsonl").exists():
        make_crawl(args.data, work)
    arms, clean = curate(work, args.data), heldout(work, args.data)
    if not (work / "tokenizer").exists():
        made = train_tokenizer(sorted(set(arms["extraction"])), args.vocabulary, num_special_tokens=16)
        made.save_pretrained(work / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    sizes = {}
    for arm, texts in arms.items():
        sizes[arm] = sum(map(len, tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]))
        print(f"{arm}: {len(texts)} documents, {len(set(texts))} different, {sizes[arm]} tokens", flush=True)
    for seed, (arm, texts) in product(args.seeds, arms.items()):  # a seed's arms first: what is there can be compared
        path = work / f"run-{arm.replace(' ', '_')}-{seed}.json"
        if path.exists() and json.loads(path.read_text())["tokens"] == args.tokens:
            continue
        model = train(texts, tokenizer, args, seed)
        found = {name: bits_per_byte(model, tokenizer, texts_of) for name, texts_of in clean.items()}
        write_json(path, {"arm": arm, "seed": seed, "tokens": args.tokens, "passes": args.tokens / sizes[arm],
                          "megabytes": sum(len(x.encode()) for x in texts) / 1e6, "bits_per_byte": found})  # fmt: skip
        print(arm, seed, found, flush=True)
    report(work, args.picture)


if __name__ == "__main__":
    main()

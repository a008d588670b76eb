"""A corpus of any size: memory of a process, tokens a second and seconds to start, from generated tokens.

python benchmarks/corpus.py --tokens 1000000 10000000 100000000 1000000000
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama_align.pretraining.tokens import COLUMN, MANIFEST
from llama_align.pretraining.write import BATCH_TOKENS

VOCABULARY, DOCUMENT = 32000, 500  # tokens of a document on average
FILE_TOKENS = 5_000_000
SOURCES = {"web": 0.7, "code": 0.2, "books": 0.1}  # of tokens, in the corpus as in the mixture


def generate(folder: Path, name: str, tokens: int, seed: int) -> None:
    """Files as `recipes/tokenise.py` writes them, of random tokens in documents of random lengths."""
    draw, files = np.random.default_rng(seed), {}
    kind = pa.list_(pa.uint16())
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, tokens, FILE_TOKENS)):
        file, left, documents = folder / f"{number:06}.arrow", min(FILE_TOKENS, tokens - first), 0
        schema = pa.schema([(COLUMN, kind)])
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            while left:
                size = min(BATCH_TOKENS, left)
                cuts = np.unique(np.append(draw.integers(1, size, size // DOCUMENT), [0, size])).astype(np.int32)
                ids = pa.array(draw.integers(0, VOCABULARY, size, np.uint16))
                stream.write_batch(pa.record_batch([pa.ListArray.from_arrays(pa.array(cuts), ids)], schema))
                left, documents = left - size, documents + len(cuts) - 1
        files[file.name] = {"size": file.stat().st_size, "documents": documents}
    content = {"name": name, "tokenizer": None, "tokens": tokens, "bytes": 4 * tokens, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content))


def memory() -> dict[str, float]:
    """This process's own memory and the mapped pages it has touched, in MB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def measure(folder: Path, tokens: int, steps: int) -> dict[str, float]:
    """Opens the sources and reads `steps` steps of a plan over all their tokens, as training does."""
    from llama_align.pretraining import Plan, Source, Stage, StepRows
    from llama_align.pretraining.tokens import open_folder

    before, start = memory(), time.perf_counter()
    sources = [Source(open_folder(folder / name), share) for name, share in SOURCES.items()]
    stage = Stage.parse({"tokens": int(tokens * 0.9), "context": 2048, "batch": 32_768}, 0, None)
    rows = StepRows(Plan(sources, [stage], 0), 1, VOCABULARY)
    rows[0]
    started = time.perf_counter() - start
    for step in range(steps):
        rows[step * len(rows) // steps]
    seconds, after = time.perf_counter() - start - started, memory()
    return {
        "start_seconds": round(started, 3),
        "tokens_per_second": round(steps * 32_768 / seconds),
        "own_memory_mb": round(after["RssAnon"] - before["RssAnon"], 1),
        "mapped_pages_mb": round(after["RssFile"] - before["RssFile"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10**6, 10**7, 10**8, 10**9])
    parser.add_argument("--steps", type=int, default=25, help="that are read, spread over the plan")
    parser.add_argument("--folder", help="of generated tokens, which is measured alone")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(Path(args.folder), args.tokens[0], args.steps)))
        return
    for tokens in args.tokens:
        root = Path(tempfile.mkdtemp(prefix="corpus."))
        try:
            for seed, (name, share) in enumerate(SOURCES.items()):
                generate(root / name, name, int(tokens * share), seed)
            command = [sys.executable, __file__, "--folder", str(root), "--tokens", str(tokens)]
            done = subprocess.run([*command, "--steps", str(args.steps)], check=True, capture_output=True, text=True)
            print(f"{tokens:>14,}  {done.stdout.strip()}", flush=True)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()

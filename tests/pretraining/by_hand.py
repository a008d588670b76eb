"""The grid of a gate for a model made by hand, with a rotary base that is large enough and one that is not.

python -m tests.pretraining.by_hand --tokenizer runs/herd-nano-real/tokenizer --text books_standardebooks.jsonl.xz
"""

import argparse
import json
import lzma
from pathlib import Path

import pyarrow as pa
import torch
from transformers import AutoTokenizer

from llama_align.data.tokenized import document_ids
from llama_align.pretraining import Tokens
from llama_align.pretraining.gate import Gate
from llama_align.pretraining.needles import Haystack, grid
from llama_align.report.figures import standalone
from llama_align.report.gates import heat_map
from llama_align.runtime.files import write_text

from .retriever import retriever


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True, help="JSON lines with text, .xz")
    parser.add_argument("--bases", type=float, nargs="+", default=[1e6, 3e3])
    parser.add_argument("--output_dir", default="docs/results")
    parser.add_argument("--needles", type=int, default=50)
    parser.add_argument("--length", type=int, default=2048)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    with lzma.open(args.text, "rt") as lines:
        texts = [json.loads(next(lines))["text"] for _ in range(40)]
    ids = list(document_ids(texts, tokenizer))
    hay = Haystack([Tokens("text", [pa.array(ids, pa.list_(pa.uint32()))])], tokenizer, 1)
    gate = Gate(needles=args.needles, digits=1)
    for base in args.bases:
        model = retriever(len(tokenizer), base, tokenizer.pad_token_id, args.length).eval()
        probes, hits = [], []
        for length, depth in grid(gate.lengths, gate.depths, args.length):
            cell = [hay.probe(length, depth, f"{length}/{depth}/{i}") for i in range(gate.per_cell)]
            cell.append(hay.probe(length, depth, f"{length}/{depth}", taken_out=True))
            for probe in cell:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([probe.ids]), logits_to_keep=probe.answer + 1).logits[0, :-1]
                probes.append(probe)
                hits.append(logits.argmax(-1).tolist() == probe.ids[-probe.answer :])
        said = gate.found(probes, hits)
        print(f"base {base:g}: {said['missed']} of {said['probes']} missed, taken out {said['taken_out']}", flush=True)
        picture = standalone(heat_map(f"Needles, base {base:g}", said["grid"]))
        write_text(Path(args.output_dir) / f"needles_by_hand_{base:.0f}.svg", picture)


if __name__ == "__main__":
    main()

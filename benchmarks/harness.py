"""The same benchmarks through the harness's own model and through ours: equal scores, and how long each takes.

    PYTHONPATH=src python benchmarks/harness.py --model runs/herd-nano-real/pretrain --tasks herd_arc_easy --limit 200

Both run in turn in one process and thread; seconds are the processor's. The harness's `hf` model reads the checkpoint
in Llama's form.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM

from llama_align.benchmarks.catalogue import Settings
from llama_align.benchmarks.computing import Computing
from llama_align.benchmarks.harness import Harness, evaluated
from llama_align.benchmarks.tasks import load_tasks
from llama_align.models.convert import convert
from llama_align.recipe import context_of, load_tokenizer
from llama_align.recipe.engines import EngineSettings
from llama_align.runtime.processes import ALONE


def timed(model, method: str, taken: list) -> None:
    """Has the seconds that a model takes for its answers, without the harness's own work, added to a list."""
    inner = getattr(model, method)

    def outer(requests, **options):
        begun = time.process_time()
        found = inner(requests, **options)
        taken.append(time.process_time() - begun)
        return found

    setattr(model, method, outer)


def measured(model, name: str, limit: int | None) -> tuple[dict, float]:
    """A task's samples, and the seconds that the model took."""
    taken: list[float] = []
    for method in ("loglikelihood", "generate_until"):
        timed(model, method, taken)
    parts = [part for task in load_tasks([name], Settings(longest=64)) for part in task.parts]
    samples = evaluated(model, parts, limit)["samples"]
    return samples, sum(taken)


def compared(ours: dict, theirs: dict) -> tuple[float, int, int]:
    """The largest difference of likelihoods, and of how many items how many have other metrics."""
    largest, items, others = 0.0, 0, 0
    for part, samples in theirs.items():
        for one, two in zip(ours[part], samples, strict=True):
            items += 1
            others += any(abs(one[metric] - two[metric]) > 1e-4 for metric in one["metrics"])
            for a, b in zip(one["filtered_resps"], two["filtered_resps"], strict=True):
                if not isinstance(a, str):
                    largest = max(largest, abs(a[0] - b[0]) / max(1.0, abs(b[0])))
    return largest, items, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a LlamaHerd, or a Llama")
    parser.add_argument("--tasks", nargs="+", default=["herd_arc_easy"])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 32], help="of the harness's model")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model, dialogs=False)
    with tempfile.TemporaryDirectory() as folder:
        llama = Path(options.model)
        if "llama_herd" in (llama / "config.json").read_text():
            llama = convert(llama, Path(folder) / "llama", to="llama")
        print("| task | items | ours, s | hf, s by batch | faster | likelihoods differ by | other metrics |")
        print("|---|---|---|---|---|---|---|")
        for task in options.tasks:
            computing = Computing(options.model, tokenizer, EngineSettings(dtype="float32"), ALONE)
            model = Harness(tokenizer, int(context_of(options.model)), computing)
            samples, own = measured(model, task, options.limit)
            found = {}
            for size in options.batch_size:
                other = HFLM(pretrained=str(llama), device="cpu", dtype="float32", batch_size=size)
                theirs, found[size] = measured(other, task, options.limit)
            largest, items, others = compared(samples, theirs)
            times = ", ".join(f"{size}: {seconds:.1f}" for size, seconds in found.items())
            ratio = min(found.values()) / own
            print(f"| {task} | {items} | {own:.1f} | {times} | {ratio:.1f} | {largest:.1e} | {others} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

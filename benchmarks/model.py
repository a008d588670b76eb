"""Training steps of LlamaHerd against transformers' Llama with the same weights: time and peak memory.

    python benchmarks/model.py [--cases head memory micro packed adamw] [--turns 5] [--output results.json]

Every row is a whole step (loss, gradients, clipping, fused AdamW) through the trainer a user would take: transformers'
Trainer or TRL's SFTTrainer for Llama, PretrainTrainer or HerdSFTTrainer for LlamaHerd. LLAMA_ALIGN_CPU_LINEARS=plain
measures without the route of float32 products; "stock, routed" is Llama with that route switched on globally.
"""

import argparse
import json
from contextlib import nullcontext

import torch
from measure import about, alternate, in_fresh_process, table
from shapes import (
    arguments,
    growth_of,
    lognormal_lengths,
    one_of,
    one_row,
    rows_of_ids,
    step_of,
    tokenizer,
    twins,
)
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from llama_align import LlamaHerdForCausalLM
from llama_align.kernels.linear import fast_products
from llama_align.trainers import HerdSFTConfig, HerdSFTTrainer, PretrainConfig, PretrainTrainer

ROWS, LENGTH = 8, 512


def pretrainer(model) -> Trainer:
    ours = isinstance(model, LlamaHerdForCausalLM)
    return (PretrainTrainer if ours else Trainer)(
        model=model, args=arguments(PretrainConfig if ours else TrainingArguments)
    )


def tuner(model) -> SFTTrainer:
    rows = one_row(input_ids=[1, 2, 3], labels=[1, 2, 3], position_ids=[0, 1, 2])
    ours = isinstance(model, LlamaHerdForCausalLM)
    skip = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": LENGTH, "remove_unused_columns": False}
    config = arguments(HerdSFTConfig if ours else SFTConfig, **skip)
    trainer = HerdSFTTrainer if ours else SFTTrainer
    return trainer(model, args=config, train_dataset=rows, processing_class=tokenizer())


def pretrainers(shape: str, dtype: str) -> tuple:
    return tuple(map(pretrainer, twins(shape, dtype)))


def tuners(shape: str, dtype: str) -> tuple:
    return tuple(map(tuner, twins(shape, dtype)))


def routed_everywhere(step):
    """Stock code with the oneDNN route on for all float32 products, not for linear layers alone."""
    setting = torch.backends.mkldnn.matmul

    def run():
        before, setting.fp32_precision = setting.fp32_precision, "bf16"
        try:
            return step()
        finally:
            setting.fp32_precision = before

    return run


def products_of_head(model, tokens: int):
    """What no head can do without, at the speed of the library: its logits and two gradients, nothing else."""
    weight_VD = model.lm_head.weight.detach()
    hidden_ND = torch.randn(tokens, weight_VD.shape[1], dtype=weight_VD.dtype)

    @torch.no_grad()
    def run():
        with fast_products(hidden_ND, weight_VD):
            logits_NV = hidden_ND @ weight_VD.T
            return logits_NV @ weight_VD, logits_NV.T @ hidden_ND

    return run


def head(turns: int) -> list[dict]:
    """Vocabulary of 128256: the head and its loss are most of the work."""
    results = []
    for dtype in ("bf16", "float32"):
        for share in (1.0, 0.5):
            batch = rows_of_ids(ROWS, LENGTH, 128256, share)
            theirs, ours = pretrainers("vocab128k", dtype)
            steps = {"ours": step_of(ours, batch), "stock, Trainer": step_of(theirs, batch)}
            least = {"the head's three products alone": products_of_head(ours.model, int(share * ROWS * LENGTH))}
            title = f"step, vocabulary 128256, {dtype}, {share:.0%} labelled"
            results += table(title, alternate(steps | least, turns), ROWS * LENGTH, "tok")
            print("   losses", {name: round(step.loss, 4) for name, step in steps.items()})
        full = rows_of_ids(ROWS, LENGTH, 128256, 0.5)
        theirs, ours = tuners("vocab128k", dtype)
        positions = torch.arange(LENGTH).expand(ROWS, -1)
        variants = {
            "ours": step_of(ours, full | {"position_ids": positions}),
            "TRL's SFTTrainer (fused head)": step_of(theirs, full | {"position_ids": positions}),
        }
        title = f"SFT step, vocabulary 128256, {dtype}, 50% labelled"
        results += table(title, alternate(variants, max(2, turns // 2)), ROWS * LENGTH, "tok")
    return results


def micro(turns: int) -> list[dict]:
    """herd-micro, a model people train on a laptop."""
    results = []
    batch = rows_of_ids(ROWS, LENGTH, 8192)
    for dtype in ("float32", "bf16"):
        theirs, ours = pretrainers("herd-micro", dtype)
        variants = {"ours": step_of(ours, batch), "stock, Trainer": step_of(theirs, batch)}
        if dtype == "float32":
            variants["stock, routed"] = routed_everywhere(variants["stock, Trainer"])
        results += table(f"step, herd-micro, {dtype}", alternate(variants, turns), ROWS * LENGTH, "tok")
        half = rows_of_ids(ROWS, LENGTH, 8192, 0.5) | {"position_ids": torch.arange(LENGTH).expand(ROWS, -1)}
        theirs, ours = tuners("herd-micro", dtype)
        variants = {"ours": step_of(ours, half), "TRL's SFTTrainer (fused head)": step_of(theirs, half)}
        title = f"SFT step, herd-micro, {dtype}, 50% labelled"
        results += table(title, alternate(variants, turns), ROWS * LENGTH, "tok")
    return results


def padded(documents: list[torch.Tensor], rows: int) -> list[dict]:
    batches = []
    for at in range(0, len(documents), rows):
        some = documents[at : at + rows]
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(d) for d in some], batch_first=True)
        ids = pad(some, batch_first=True)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return batches


def packed(documents: list[torch.Tensor], length: int, rows: int) -> list[dict]:
    """Best fit first; the rest of a row is a document of padding. In batches of `rows`."""
    bins: list[list[torch.Tensor]] = []
    for document in sorted(documents, key=len, reverse=True):
        fitting = [b for b in bins if sum(map(len, b)) + len(document) <= length]
        (max(fitting, key=lambda b: sum(map(len, b))) if fitting else bins.append([]) or bins[-1]).append(document)
    made = []
    for some in bins:
        rest = length - sum(map(len, some))
        ids = torch.cat([*some, torch.zeros(rest, dtype=torch.long)])
        labels = torch.cat([*(torch.cat([torch.tensor([-100]), d[1:]]) for d in some), torch.full((rest,), -100)])
        positions = torch.cat([torch.arange(len(d)) for d in some] + [torch.arange(rest)])
        made.append({"input_ids": ids, "labels": labels, "position_ids": positions})
    return [
        {key: torch.stack([row[key] for row in made[at : at + rows]]) for key in made[0]}
        for at in range(0, len(made), rows)
    ]


def over(trainer, batches: list[dict], **extra):
    steps = [step_of(trainer, batch | extra) for batch in batches]
    return lambda: [step() for step in steps]


def documents(turns: int) -> list[dict]:
    """Documents of lognormal length, mean 200, at most 1024, herd-micro."""
    lengths = lognormal_lengths(40)
    texts = [torch.randint(3, 8192, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    ordered = sorted(texts, key=len)
    results = []
    for dtype in ("float32", "bf16"):
        theirs, ours = pretrainers("herd-micro", dtype)
        rows = packed(texts, 1024, 4)
        variants = {
            "ours": over(ours, rows),
            "ours, one row of 4096": over(ours, packed(texts, 4096, 1)),
            "stock, padded, random order": over(theirs, padded(texts, 16)),
            "stock, padded, sorted by length": over(theirs, padded(ordered, 16)),
            "stock, packed in one row of 4096": over(theirs, packed(texts, 4096, 1), use_cache=False),
            "stock, packed in rows of 1024": over(theirs, rows, use_cache=False),
        }
        title = f"{len(texts)} documents, {sum(lengths)} tokens, herd-micro, {dtype}"
        results += table(title, alternate(variants, turns), sum(lengths), "tok")
    return results


def adamw(turns: int) -> list[dict]:
    """One optimizer step: what every recipe uses against torch's default loop."""
    results = []
    for shape in ("herd-micro", "vocab128k"):
        variants = {}
        for name, options in (("ours", {"fused": True}), ("torch's default", {})):
            model = twins(shape, "float32")[1]
            for weight in model.parameters():
                weight.grad = torch.randn_like(weight)
            variants[name] = torch.optim.AdamW(model.parameters(), lr=1e-6, **options).step
        results += table(f"AdamW, {shape}, float32", alternate(variants, 4 * turns), 1, "step")
    return results


def memory(turns: int) -> list[dict]:
    """Growth of the peak over what the process held before its first step, a fresh process for every variant."""
    results = []
    for shape, dtype in (("vocab128k", "bf16"), ("vocab128k", "float32"), ("herd-micro", "float32")):
        grown = {who: in_fresh_process(__file__, shape, dtype, who) for who in ("ours", "stock", "TRL's fused head")}
        print(f"\npeak memory growth, {shape}, {dtype}, {ROWS} x {LENGTH} tokens, all labelled, gradients included")
        for who, found in grown.items():
            ratio = found["grown"] / grown["ours"]["grown"]
            print(f"  {who:44s} {found['grown']:8.0f} MB over {found['before']:.0f}  {ratio:5.2f}x")
            results.append({"title": f"memory {shape} {dtype}", "variant": who, "ratio": ratio, **found})
    return results


def child(shape: str, dtype: str, who: str) -> None:
    trl = who == "TRL's fused head"
    trainer = (tuner if trl else pretrainer)(one_of(shape, dtype, ours=who == "ours"))
    batch = rows_of_ids(ROWS, LENGTH, trainer.model.config.vocab_size)
    batch |= {"position_ids": torch.arange(LENGTH).expand(ROWS, -1)} if trl else {}
    # the optimizer's state is the same for all and left out
    print(json.dumps(growth_of(trainer, batch)))


CASES = {"head": head, "memory": memory, "micro": micro, "packed": documents, "adamw": adamw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--turns", type=int, default=5, help="timed turns of every variant")
    parser.add_argument("--output", help="write all rows as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child)
    about()
    results = [row for case in options.cases for row in CASES[case](options.turns)]
    with open(options.output, "w") if options.output else nullcontext() as file:
        if file:
            json.dump(results, file, indent=1)
    return None


if __name__ == "__main__":
    main()

"""Preference steps of LlamaHerd against transformers' Llama with the same weights, through TRL's trainers.

    python benchmarks/preference.py [--cases dpo dpo128k group] [--turns 5] [--output results.json]

A DPO step is policy and reference, gradients, clipping and AdamW. "TRL" is DPOTrainer as shipped on Llama; "answers
only" is the same model and trainer, its head on answer tokens alone; "ours, prompts apart" HerdDPOTrainer without
sharing. A group is eight answers to one prompt: scores of a reward model, or log-probabilities as PPO reads them.
"""

import argparse
import json
from copy import deepcopy
from functools import partial

import torch
from measure import about, alternate, in_fresh_process, table
from shapes import SHAPES, arguments, growth_of, one_of, one_row, step_of, tokenizer, twins
from trl import DPOConfig, DPOTrainer

from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer
from llama_align.trainers.heads import attach_head, scores_of_rows

SIZES = ((512, 128, 4), (128, 128, 8))  # tokens of the prompt, of each answer, pairs


def pairs(prompt: int, answer: int, count: int, vocabulary: int) -> list[dict]:
    """Random pairs of full length: what sharing saves is the prompt alone, and there is no padding to leave out."""
    draw = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(100, vocabulary, (length,), generator=draw).tolist()

    return [{"prompt_ids": ids(prompt), "chosen_ids": ids(answer), "rejected_ids": ids(answer)} for _ in range(count)]


def dpo_trainer(who: str, model, row: dict) -> DPOTrainer:
    """The extra terms of ours are off, so that all compute the same loss."""
    plain = {"max_length": None}  # trainers want a data set; the benchmark hands them batches
    shared = {"ref_model": deepcopy(model), "processing_class": tokenizer()}
    if who.startswith("ours"):
        ours = plain | {"mask_format_tokens": False, "nll_coefficient": 0.0, "share_prompts": who == "ours"}
        return HerdDPOTrainer(model, args=arguments(HerdDPOConfig, **ours), train_dataset=one_row(**row), **shared)
    text = one_row(prompt="a", chosen="b", rejected="c")
    trainer = DPOTrainer(model, args=arguments(DPOConfig, **plain), train_dataset=text, **shared)
    if who == "TRL, answers only":
        outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
        for network, wanted in ((trainer.model, outputs), (trainer.ref_model, ("log_probs",))):
            del network.forward  # TRL's patch
            attach_head(network, outputs=wanted)
    return trainer


def dpo_trainers(shape: str, dtype: str, row: dict) -> dict:
    stock, herd = twins(shape, dtype)
    names = ("ours", "ours, prompts apart", "TRL, answers only", "TRL")
    return {who: dpo_trainer(who, deepcopy(herd if who.startswith("ours") else stock), row) for who in names}


def dpo_case(shape: str, dtype: str, turns: int) -> list[dict]:
    results = []
    for prompt, answer, count in SIZES:
        rows = pairs(prompt, answer, count, SHAPES[shape]["vocab_size"])
        trainers = dpo_trainers(shape, dtype, rows[0])
        steps = {name: step_of(trainer, trainer.data_collator(deepcopy(rows))) for name, trainer in trainers.items()}
        title = f"DPO step, {shape}, {dtype}, {count} pairs of {prompt}:{answer}"
        results += table(title, alternate(steps, turns), count * (prompt + 2 * answer), "tok")
        print("   losses", {name: round(step.loss, 5) for name, step in steps.items()})
    return results


def dpo(turns: int) -> list[dict]:
    """herd-micro."""
    return [row for dtype in ("float32", "bf16") for row in dpo_case("herd-micro", dtype, turns)]


def dpo128k(turns: int) -> list[dict]:
    """A vocabulary of 128256, and the growth of peak memory in fresh processes."""
    results = dpo_case("vocab128k", "bf16", max(2, turns // 2))
    grown = {who: in_fresh_process(__file__, who) for who in ("ours", "TRL")}
    print("\npeak memory growth, DPO, vocabulary 128256, bf16, 4 pairs of 512:128, gradients included")
    for who, found in grown.items():
        ratio = found["grown"] / grown["ours"]["grown"]
        print(f"  {who:44s} {found['grown']:8.0f} MB over {found['before']:.0f}  {ratio:5.2f}x")
        results.append({"title": "memory DPO vocab128k bf16", "variant": who, "ratio": ratio, **found})
    return results


def child(who: str) -> None:
    rows = pairs(512, 128, 4, 128256)
    trainer = dpo_trainer(who, one_of("vocab128k", "bf16", ours=who == "ours"), rows[0])
    print(json.dumps(growth_of(trainer, trainer.data_collator(rows))))


class Group:
    """Prompts with eight answers each, in full rows; each method is one forward and backward pass."""

    def __init__(self, prompt: int, answer: int, prompts: int, vocabulary: int = 8192):
        draw = torch.Generator().manual_seed(0)
        shared = torch.randint(3, vocabulary, (prompts, prompt), generator=draw).repeat_interleave(8, 0)
        self.answers = torch.randint(3, vocabulary, (prompts * 8, answer), generator=draw)
        self.ids, self.prompt = torch.cat((shared, self.answers), 1), prompt
        self.mask = torch.ones_like(self.ids)
        self.answer_mask = torch.arange(self.ids.shape[1]).expand_as(self.ids) >= prompt
        self.labels = self.ids.masked_fill(~self.answer_mask, -100)

    def shared_scores(self, model) -> None:
        scores_of_rows(model, self.ids, self.mask, self.answer_mask).sum().backward()

    def scores(self, model) -> None:
        model(self.ids, use_cache=False).logits.sum().backward()

    def shared_logps(self, model) -> None:
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, "labels": self.labels}
        model(**inputs, fused_lm_head=True).log_probs.sum().backward()

    def full_logps(self, model) -> None:
        logits = model(self.ids, use_cache=False).logits[:, self.prompt - 1 : -1].float()
        logits.log_softmax(-1).gather(-1, self.answers[..., None]).sum().backward()


def group(turns: int) -> list[dict]:
    """Eight answers to one prompt, forward and backward, herd-micro: scores, then log-probabilities."""
    return [
        row
        for dtype in ("float32", "bf16")
        for sizes in ((512, 128, 1), (128, 128, 2))
        for row in group_case(dtype, *sizes, turns)
    ]


def group_case(dtype: str, prompt: int, answer: int, prompts: int, turns: int) -> list[dict]:
    rows = Group(prompt, answer, prompts)
    size = f"{prompts} x 8 answers of {prompt}:{answer}, herd-micro, {dtype}"
    tokens = prompts * (prompt + 8 * answer)
    stock, herd = twins("herd-micro", dtype, "reward")
    scores = {
        "ours": partial(rows.shared_scores, herd),
        "ours, prompts apart": partial(rows.scores, herd),
        "stock": partial(rows.scores, stock),
    }
    results = table(f"reward model, {size}", alternate(scores, turns), tokens, "tok")
    stock, herd = twins("herd-micro", dtype)
    attach_head(herd)
    logps = {"ours": partial(rows.shared_logps, herd), "stock, full logits": partial(rows.full_logps, stock)}
    return results + table(f"log-probabilities, {size}", alternate(logps, turns), tokens, "tok")


CASES = {"dpo": dpo, "dpo128k": dpo128k, "group": group}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--turns", type=int, default=5, help="timed turns of every variant")
    parser.add_argument("--output", help="write all rows as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    about()
    results = [row for case in options.cases for row in CASES[case](options.turns)]
    if options.output:
        with open(options.output, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()

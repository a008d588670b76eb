"""Preference steps of LlamaHerd against transformers' Llama with the same weights, through TRL's trainers.

    python benchmarks/preference.py [--cases dpo dpo128k group] [--turns 5] [--output results.json]

A DPO step is policy and reference, gradients, clipping and AdamW. "TRL" is DPOTrainer as shipped on Llama; "answers only"
is the same model and trainer, its head on answer tokens alone; "ours, prompts apart" HerdDPOTrainer without sharing.
A group is K answers to one prompt: scores of a reward model, or values and log-probabilities as PPO reads them.
"""

import argparse
import json
from copy import deepcopy

import torch
from measure import about, alternate, in_fresh_process, peak, table
from setup import arguments, one_row, step_of, tokenizer, twins
from trl import DPOConfig, DPOTrainer

from llama_align.heads import attach_head, scores_of_rows
from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer

SIZES = ((512, 128, 4), (128, 128, 8))  # tokens of the prompt, of each answer, pairs


def pairs(prompt: int, answer: int, count: int, vocabulary: int) -> list[dict]:
    """Random pairs of full length: what sharing saves is the prompt alone, and there is no padding to leave out."""
    draw = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(100, vocabulary, (length,), generator=draw).tolist()

    return [{"prompt_ids": ids(prompt), "chosen_ids": ids(answer), "rejected_ids": ids(answer)} for _ in range(count)]


def dpo_trainers(shape: str, dtype: str, rows: list[dict]) -> dict:
    """One trainer per variant; the extra terms of ours are off, so that all compute the same loss."""
    shared = {"processing_class": tokenizer()}  # trainers want a data set; the benchmark hands them batches
    text, ids = one_row(prompt="a", chosen="b", rejected="c"), one_row(**rows[0])
    plain = {"max_length": None}
    ours = plain | {"mask_format_tokens": False, "nll_coefficient": 0.0}
    stock, herd = twins(shape, dtype)

    def theirs() -> DPOTrainer:
        config = arguments(DPOConfig, **plain)
        return DPOTrainer(deepcopy(stock), ref_model=deepcopy(stock), args=config, train_dataset=text, **shared)

    def herds(share: bool) -> HerdDPOTrainer:
        config = arguments(HerdDPOConfig, share_prompts=share, **ours)
        return HerdDPOTrainer(deepcopy(herd), ref_model=deepcopy(herd), args=config, train_dataset=ids, **shared)

    answers_only = theirs()
    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    for model, wanted in ((answers_only.model, outputs), (answers_only.ref_model, ("log_probs",))):
        del model.forward  # TRL's patch
        attach_head(model, outputs=wanted)
    return {
        "ours": herds(True),
        "ours, prompts apart": herds(False),
        "TRL, answers only": answers_only,
        "TRL": theirs(),
    }


def dpo_case(shape: str, dtype: str, turns: int) -> list[dict]:
    results = []
    for prompt, answer, count in SIZES:
        vocabulary = twins(shape, dtype)[0].config.vocab_size
        rows = pairs(prompt, answer, count, vocabulary)
        trainers = dpo_trainers(shape, dtype, rows)
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
    trainer = dpo_trainers("vocab128k", "bf16", rows)[who]
    batch, model = trainer.data_collator(rows), trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    before = peak()
    trainer.training_step(model, dict(batch))
    print(json.dumps({"before": before, "grown": peak() - before}))


def group_of(prompt: int, answer: int, answers: int, rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, vocabulary, (rows, prompt), generator=draw).repeat_interleave(answers, 0)
    return prompts, torch.randint(3, vocabulary, (rows * answers, answer), generator=draw)


def group(turns: int) -> list[dict]:
    """Eight answers to one prompt, forward and backward, herd-micro: scores, then log-probabilities."""
    results = []
    for dtype in ("float32", "bf16"):
        for prompt, answer, count in ((512, 128, 1), (128, 128, 2)):
            prompts, answers = group_of(prompt, answer, 8, count, 8192)
            ids = torch.cat((prompts, answers), 1)
            mask, answer_mask = torch.ones_like(ids), torch.zeros_like(ids, dtype=torch.bool)
            answer_mask[:, prompt:] = True
            size = f"{count} x 8 answers of {prompt}:{answer}, herd-micro, {dtype}"
            tokens = count * (prompt + 8 * answer)

            stock, herd = twins("herd-micro", dtype, "reward")
            scores = {
                "ours": lambda m=herd, a=answer_mask: scores_of_rows(m, ids, mask, a).sum().backward(),  # noqa: B023
                "ours, prompts apart": lambda m=herd: m(ids).logits.sum().backward(),  # noqa: B023
                "stock": lambda m=stock: m(ids, use_cache=False).logits.sum().backward(),  # noqa: B023
            }
            results += table(f"reward model, {size}", alternate(scores, turns), tokens, "tok")

            stock, herd = twins("herd-micro", dtype)
            labels = ids.masked_fill(~answer_mask, -100)
            attach_head(herd)
            logps = {
                "ours": lambda m=herd, y=labels: (
                    m(  # noqa: B023
                        input_ids=ids,
                        attention_mask=mask,
                        labels=y,
                        fused_lm_head=True,  # noqa: B023
                    )
                    .log_probs.sum()
                    .backward()
                ),
                "stock, full logits": lambda m=stock, p=prompt, a=answers: full_logps(m, ids, p, a).sum().backward(),  # noqa: B023
            }
            results += table(f"log-probabilities, {size}", alternate(logps, turns), tokens, "tok")
    return results


def full_logps(model, ids: torch.Tensor, prompt: int, answers: torch.Tensor) -> torch.Tensor:
    logits = model(ids, use_cache=False).logits[:, prompt - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, answers[..., None])


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

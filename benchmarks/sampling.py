"""The native sampler against `generate` and continuous batching, and reward scoring against padded batches.

    python benchmarks/sampling.py [--cases micro answers ...] [--turns 5] [--output results.json]

Every variant draws K answers of at most 128 tokens to 8 random prompts, from the same random weights; figures are time
per token of an answer, terminators included. "ending": a random 1/128 of the vocabulary ends an answer, which a model
of random weights draws at about that rate; "none ending": nothing does. "plain" is ours without the route of float32
products; "stock, routed" is Llama with that route switched on globally. A GPU is used where there is one; larger
shapes are then of interest: --shapes herd-mini llama-3.2-1b.
"""

import argparse
import json
import logging
import os
import statistics
from contextlib import contextmanager, nullcontext
from copy import deepcopy

import torch
from measure import about, alternate, table
from model import padded, routed_everywhere
from shapes import lognormal_lengths, twins
from transformers import GenerationConfig

from llama_align.kernels.linear import SETTING, routed
from llama_align.rewards.scoring import RewardScorer
from llama_align.sampling import SamplingParams
from llama_align.sampling.native import NativeEngine

PROMPTS, NEW = 8, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def linears(setting: str):
    before = os.environ.get(SETTING)
    os.environ[SETTING] = setting
    routed.cache_clear()
    try:
        yield
    finally:
        os.environ.pop(SETTING)
        if before is not None:
            os.environ[SETTING] = before
        routed.cache_clear()


def plain(run):
    """`run` without the route."""

    def slower():
        with linears("plain"):
            return run()

    return slower


class Work:
    """One task for every sampler: a shape, K answers to prompts of one length, some terminators or none. Each method
    makes a function that does it once, with draws of its own, and returns the number of tokens drawn."""

    def __init__(self, shape: str, dtype: str, answers: int, prompt: int, ending: bool):
        self.stock, self.herd = (model.to(DEVICE).eval() for model in twins(shape, dtype))
        vocabulary = self.herd.config.vocab_size
        draw = torch.Generator().manual_seed(1)
        self.ids = torch.randint(3, vocabulary, (PROMPTS, prompt), generator=draw)
        stop = torch.randperm(vocabulary, generator=draw)[: vocabulary // NEW] if ending else []
        self.stop = set(map(int, stop))
        self.answers = answers
        self.title = f"{shape}, {dtype}, K={answers}, prompt {prompt}, {'ending' if ending else 'none ending'}"
        self.calls = 0

    def native(self, model=None):
        engine, prompts = NativeEngine(self.herd if model is None else model), self.ids.tolist()

        def run() -> int:
            self.calls += 1
            params = SamplingParams(n=self.answers, max_new_tokens=NEW, seed=self.calls)
            return sum(len(a.ids) for of_prompt in engine.generate(prompts, params, self.stop) for a in of_prompt)

        return run

    def plain(self):
        return plain(self.native())

    def config(self) -> GenerationConfig:
        return GenerationConfig(
            do_sample=True,
            top_k=0,
            max_new_tokens=NEW,
            num_return_sequences=self.answers,
            pad_token_id=0,
            eos_token_id=sorted(self.stop) or [self.herd.config.vocab_size],
        )

    def generate(self):
        ids, config = self.ids.to(DEVICE), self.config()
        stop = torch.tensor(sorted(self.stop), dtype=torch.int64, device=DEVICE)

        def run() -> int:
            options = {"attention_mask": torch.ones_like(ids), "generation_config": config}
            drawn_NT = self.stock.generate(ids, **options)[:, ids.shape[1] :]
            return int(lengths_of(drawn_NT, stop).sum())

        return run

    def generate_from_cache(self):
        """Stock at its best with long prompts: computed once, their keys and values repeated for every answer."""
        ids, config, stop = self.ids.to(DEVICE), self.config(), torch.tensor(sorted(self.stop), device=DEVICE)
        config.num_return_sequences = 1

        @torch.no_grad()
        def run() -> int:
            cache = self.stock(ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(self.answers)
            rows = ids.repeat_interleave(self.answers, 0)
            options = {"attention_mask": torch.ones_like(rows), "past_key_values": cache, "generation_config": config}
            return int(lengths_of(self.stock.generate(rows, **options)[:, ids.shape[1] :], stop).sum())

        return run

    def batching(self):
        model, config, prompts = deepcopy(self.stock), self.config(), self.ids.tolist()

        def run() -> int:
            outputs = model.generate_batch(prompts, generation_config=config, warmup=False)
            assert len(outputs) == PROMPTS * self.answers, "generate_batch leaves out what failed"
            return sum(len(output.generated_tokens) for output in outputs.values())

        return run


def lengths_of(drawn_NT: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
    """Tokens of every answer, its terminator included."""
    from_terminator_N = torch.isin(drawn_NT, stop).cummax(-1).values.sum(-1)
    return drawn_NT.shape[1] - (from_terminator_N - 1).clamp(min=0)


def compare(work: Work, variants: dict, turns: int, title: str = "") -> list[dict]:
    """A table of times per token: variants draw answers of different lengths."""
    tokens: dict[str, list[int]] = {name: [] for name in variants}

    def counted(name: str):
        return lambda: tokens[name].append(variants[name]())

    seconds = alternate({name: counted(name) for name in variants}, turns)
    usual = statistics.mean(tokens["ours"])
    for name, times in seconds.items():
        seconds[name] = [s * usual / n for s, n in zip(times, tokens[name][-turns:], strict=True)]
    return table(title or work.title, seconds, round(usual), "tok")


def micro(turns: int, shapes: list[str]) -> list[dict]:
    """Eight prompts of 64 tokens, 16 answers each, in every precision."""
    results = []
    for dtype in ("float32", "bf16"):
        for ending in (False, True):
            work = Work("herd-micro", dtype, 16, 64, ending)
            variants = {"ours": work.native(), "generate": work.generate()}
            if dtype == "float32" and DEVICE == "cpu":
                variants |= {"ours, plain": work.plain(), "generate, routed": routed_everywhere(work.generate())}
            results += compare(work, variants, turns)
    return results


def answers(turns: int, shapes: list[str]) -> list[dict]:
    """By the number of answers to a prompt; stock's weights too, in our engine."""
    results = []
    for shape in shapes:
        for count in (1, 4, 16, 32):
            work = Work(shape, "float32", count, 64, True)
            variants = {"ours": work.native(), "generate": work.generate()}
            if count == 4:
                variants |= {"ours, on LlamaForCausalLM": work.native(work.stock)}
            results += compare(work, variants, turns)
    return results


def prompts(turns: int, shapes: list[str]) -> list[dict]:
    """By the length of the prompt."""
    results = []
    for shape in shapes:
        for length in (32, 128, 512):
            work = Work(shape, "float32", 16, length, True)
            variants = {"ours": work.native(), "generate": work.generate()}
            if length == 512:
                variants |= {"generate, prompts computed once": work.generate_from_cache()}
                variants |= {"ours, plain": work.plain()} if DEVICE == "cpu" else {}
            results += compare(work, variants, turns)
    return results


def batching(turns: int, shapes: list[str]) -> list[dict]:
    """Continuous batching, which on a processor is slower than `generate`."""
    results = []
    cases = [*((shape, 4, True) for shape in shapes), (shapes[-1], 16, True), (shapes[-1], 16, False)]
    for shape, count, ending in cases:
        work = Work(shape, "float32", count, 64, ending)
        results += compare(work, {"ours": work.native(), "generate_batch": work.batching()}, turns)
    return results


def scoring(turns: int, shapes: list[str]) -> list[dict]:
    """128 answers of lognormal length, mean 200, at most 1024; then 8 prompts of 128 tokens with 16 such answers."""
    results = []
    draw = torch.Generator().manual_seed(1)
    single = [torch.randint(3, 8192, (n,), generator=draw) for n in lognormal_lengths(128)]
    starts = [torch.randint(3, 8192, (128,), generator=draw) for _ in range(8)]
    grouped = [torch.cat((starts[i // 16], answer)) for i, answer in enumerate(single)]
    for dtype in ("float32", "bf16"):
        stock, herd = (model.to(DEVICE).eval() for model in twins("herd-micro", dtype, "reward"))
        for title, texts in (("128 answers", single), ("8 prompts x 16 answers", grouped)):
            lists, scorer = [text.tolist() for text in texts], RewardScorer(herd, 0)
            variants = {"ours": lambda lists=lists, scorer=scorer: scorer.score(lists)}
            batches = {"random order": padded(texts, 16), "sorted by length": padded(sorted(texts, key=len), 16)}
            for order, rows in batches.items():
                variants[f"stock, 16 at a time, {order}"] = lambda rows=rows, stock=stock: naive_scores(stock, rows)
            if dtype == "float32" and DEVICE == "cpu":
                variants["ours, plain"] = plain(variants["ours"])
            seconds = alternate(variants, turns)
            results += table(f"reward scores, herd-micro, {dtype}, {title}", seconds, sum(map(len, texts)), "tok")
    return results


def step(turns: int, shapes: list[str]) -> list[dict]:
    """A step of rejection sampling: 16 prompts of several lengths, 16 answers to each, their scores, the best."""
    results = []
    for dtype in ("float32", "bf16"):
        work = Work("herd-micro", dtype, 16, 64, True)
        stock, herd = (model.to(DEVICE).eval() for model in twins("herd-micro", dtype, "reward"))
        draw = torch.Generator().manual_seed(2)
        prompts = [torch.randint(3, 8192, (n,), generator=draw) for n in lognormal_lengths(16, mean=128, longest=512)]
        variants = {
            "ours": our_step(work, prompts, herd),
            "generate, scores sorted, 16 at a time": stock_step(work, prompts, stock, together=8),
            "generate prompt by prompt, as TRL's BestOfNSampler did": stock_step(work, prompts, stock, together=1),
        }
        if dtype == "float32" and DEVICE == "cpu":
            variants["ours, plain"] = plain(our_step(work, prompts, herd))
        results += compare(work, variants, turns, f"rejection sampling, herd-micro, {dtype}, 16 prompts, K=16")
    return results


def our_step(work: Work, prompts: list[torch.Tensor], reward_model):
    engine, scorer = NativeEngine(work.herd), RewardScorer(reward_model, 0)
    lists = [prompt.tolist() for prompt in prompts]

    def run() -> int:
        work.calls += 1
        params = SamplingParams(n=work.answers, max_new_tokens=NEW, seed=work.calls)
        answers = [[a.ids for a in of_prompt] for of_prompt in engine.generate(lists, params, work.stop)]
        scores = iter(scorer.score([p + a for p, drawn in zip(lists, answers, strict=True) for a in drawn]))
        best = [max(drawn, key=lambda _: next(scores)) for drawn in answers]
        assert len(best) == len(prompts)
        return sum(len(a) for drawn in answers for a in drawn)

    return run


def stock_step(work: Work, prompts: list[torch.Tensor], reward_model, together: int):
    """Prompts padded on the left, `together` at a time; answers of like length scored, 16 at a time."""
    config, stop = work.config(), torch.tensor(sorted(work.stop), device=DEVICE)

    def run() -> int:
        rows, lengths = [], []
        for at in range(0, len(prompts), together):
            (batch,) = padded([prompt.flip(0) for prompt in prompts[at : at + together]], together)
            ids, mask = (batch[name].flip(1).to(DEVICE) for name in ("input_ids", "attention_mask"))
            drawn_NT = work.stock.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
            kept_N = lengths_of(drawn_NT, stop).tolist()
            starts = [prompt for prompt in prompts[at : at + together] for _ in range(work.answers)]
            rows += [torch.cat((p, a[:n].cpu())) for p, a, n in zip(starts, drawn_NT, kept_N, strict=True)]
            lengths += kept_N
        order, scores = sorted(range(len(rows)), key=lambda i: len(rows[i])), torch.empty(len(rows))
        scores[order] = torch.tensor(naive_scores(reward_model, padded([rows[i] for i in order], 16)))
        best = scores.view(len(prompts), -1).argmax(-1)
        assert len(best) == len(prompts)
        return sum(lengths)

    return run


@torch.no_grad()
def naive_scores(model, batches: list[dict]) -> list[float]:
    return [
        score
        for batch in batches
        for score in model(input_ids=batch["input_ids"].to(DEVICE), attention_mask=batch["attention_mask"].to(DEVICE))
        .logits[:, 0]
        .tolist()
    ]


CASES = {"micro": micro, "answers": answers, "prompts": prompts, "batching": batching, "scoring": scoring, "step": step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--shapes", nargs="+", default=["herd-nano", "herd-micro"], help="of answers, prompts, batching"
    )
    parser.add_argument("--turns", type=int, default=5, help="timed turns of every variant")
    parser.add_argument("--output", help="write all rows as JSON")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    about()
    results = [row for case in options.cases for row in CASES[case](options.turns, options.shapes)]
    with open(options.output, "w") if options.output else nullcontext() as file:
        if file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()

"""Largest differences between the trainers and the plain implementations in float64, as a table.

python -m tests.trainers.differences writes docs/results/trainers.md; tests check the same cases.
"""

import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, recipe
from llama_align.chat import render, train_tokenizer
from llama_align.data import GRADES, Demonstration, Preference, demonstration_rows, ranking_rows
from llama_align.recipe.results import is_timing
from llama_align.trainers import (
    HerdDPOConfig,
    HerdDPOTrainer,
    HerdRewardConfig,
    HerdRewardTrainer,
    HerdSFTConfig,
    HerdSFTTrainer,
    margin_table,
)

from ..launch.warm import LAUNCHER, Warm
from .plain import as_ids, plain_dpo, plain_reward, plain_sft, random_pairs
from .ppo.differences import ppo_differences

ROWS = 8
RATE = 0.5  # of the SGD step by which weights are compared


class Bench:
    """A tokenizer, checkpoints of two layers with random weights, and data, in a folder; equal folders are equal."""

    def __init__(self, folder: Path):
        self.folder = folder
        draw = random.Random(0)
        words = ["".join(draw.choices(["ba", "do", "ki", "lu", "me", "no"], k=draw.randint(1, 3))) for _ in range(400)]
        if not (folder / "tokenizer").is_dir():
            train_tokenizer([" ".join(words), "Ä 東京 12\n\n"], 320).save_pretrained(folder / "tokenizer")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def path(self, kind: str, seed: int = 0, labels: int = 1) -> str:
        path = self.folder / f"{kind}-{seed}-{labels}"
        if not path.is_dir():
            names = ("bos_token_id", "eos_token_id", "pad_token_id")
            ids = {name: getattr(self.tokenizer, name) for name in names}
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
            sizes |= {"num_key_value_heads": 2, "vocab_size": len(self.tokenizer), "max_position_embeddings": 256}
            config = LlamaHerdConfig(**sizes, **ids, initializer_range=0.2, num_labels=labels)
            torch.manual_seed(seed)
            model = {"causal": LlamaHerdForCausalLM, "reward": LlamaHerdForSequenceClassification}[kind](config)
            model.save_pretrained(path)
        return str(path)

    def plain(self, kind: str, seed: int = 0, labels: int = 1):
        return recipe.load_model(self.path(kind, seed, labels), kind, dtype=torch.float64)

    def options(self, **changes) -> dict:
        return {
            "output_dir": str(self.folder / "out"),
            **{"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
            **{"gradient_checkpointing": False, "optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0.0},
            **{
                "lr_scheduler_type": "constant",
                "max_steps": 1,
                "logging_steps": 1,
                "per_device_train_batch_size": ROWS,
            },
            **changes,
        }

    # -- a trainer, and the plain loss of its model on its data

    def sft(self, strategy="bfd", dtype=torch.float32, **changes):
        draw = random.Random(1)
        words = ["bado", "kilu", "mete", "nora"]
        dialogs = [
            Demonstration(
                [
                    {"role": "user", "content": " ".join(draw.choices(words, k=draw.randint(1, 9)))},
                    {"role": "assistant", "content": " ".join(draw.choices(words, k=draw.randint(1, 20)))},
                ]
            )
            for _ in range(60)
        ]
        rows = demonstration_rows(dialogs, self.tokenizer, 96, strategy)[0].select(range(ROWS))
        trainer = HerdSFTTrainer(
            recipe.load_model(self.path("causal"), dtype=dtype),
            args=HerdSFTConfig(**self.options(max_length=96, **changes)),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        rendered = [render(self.tokenizer, dialog.messages) for dialog in dialogs]
        if strategy == "bfd":
            pieces = [(r.ids, r.labels) for r in rendered if _holds(rows, r.ids)]
        else:
            pieces = _cut([(r.ids, r.labels) for r in rendered], 96, ROWS)
        return trainer, lambda model: plain_sft(model, pieces)

    def reward(self, objectives=None, margin="small", safety=0.0, listwise=False, dtype=torch.float32, **changes):
        objectives = objectives or {"margin": 1.0}
        rows = ranking_rows(
            graded(24 if listwise else ROWS), self.tokenizer, 200, margin_table(margin), listwise=listwise
        )[0]
        rows = rows.select(range(ROWS))
        model = recipe.load_model(self.path("reward", labels=2 if safety else 1), "reward", dtype=dtype)
        options = {"objectives": objectives, "margin": margin, "safety_coefficient": safety}
        trainer = HerdRewardTrainer(
            model,
            args=HerdRewardConfig(**self.options(**options, **changes)),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        return trainer, lambda model: plain_reward(model, rows, objectives, safety)

    def dpo(self, lora=False, dtype=torch.float32, mask_format_tokens=True, nll_coefficient=0.2, **changes):
        pairs = random_pairs(self.tokenizer, ROWS)
        reference = None if lora else recipe.load_model(self.path("causal", 1), dtype=dtype)
        options = {"mask_format_tokens": mask_format_tokens, "nll_coefficient": nll_coefficient, "beta": 0.3}
        trainer = HerdDPOTrainer(
            recipe.load_model(self.path("causal"), dtype=dtype),
            ref_model=reference,
            args=HerdDPOConfig(**self.options(max_length=250, **options, **changes)),
            train_dataset=Dataset.from_list(as_ids(pairs)),
            processing_class=self.tokenizer,
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear") if lora else None,
        )
        fixed = self.plain("causal", 0 if lora else 1)
        return trainer, lambda model: plain_dpo(model, fixed, pairs, 0.3, nll_coefficient, mask_format_tokens)


def graded(count: int) -> list[Preference]:
    """Pairs of every grade, some with an edited answer or safety labels, three in a row on one prompt."""
    draw, words = random.Random(2), ["bado", "kilu", "mete", "nora", "sivu"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 12)))

    records = []
    for number in range(count):
        prompt = [{"role": "user", "content": f"{number // 3} bado"}]
        labels = [draw.choice((None, True, False)) for _ in range(2)]
        edited = text() + " 12" if number % 2 else None
        records.append(
            Preference(prompt, text(), text() + " ki", GRADES[number % 4], "helpfulness", *labels, edited=edited)
        )
    return records


def _holds(rows, ids: list[int]) -> bool:
    text = ",".join(map(str, ids))
    return any(f",{text}," in f",{','.join(map(str, row))}," for row in rows["input_ids"])


def _cut(dialogs, length: int, rows: int):
    """Llama 2's concatenation by hand: every dialog's piece of every row."""
    pieces, at = [], 0
    for ids, labels in dialogs:
        start = 0
        while start < len(ids):
            size = min(len(ids) - start, length - at % length)
            if at < rows * length:
                pieces.append((ids[start : start + size], labels[start : start + size]))
            start, at = start + size, at + size
    return [piece for piece in pieces if len(piece[0]) > 1]


@dataclass(frozen=True)
class Case:
    """One comparison; `limit`: the largest difference of a loss or gradient that the tests allow."""

    objective: str
    variant: str
    make: Callable
    limit: float = 2e-5


PLAIN = "plain float64, one answer at a time"
DOUBLE = torch.float64
ACCUMULATED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": ROWS}
BEFOREHAND = ACCUMULATED | {"precompute_ref_log_probs": True}
ALL = {"margin": 0.5, "bradley_terry": 1.0, "center": 0.1}
CASES = [
    Case("SFT", "dialogs kept whole (Llama 3)", lambda b: b.sft()),
    Case("SFT", "end to end (Llama 2)", lambda b: b.sft("concat")),
    Case("SFT", "8 accumulated rows", lambda b: b.sft(**ACCUMULATED)),
    Case("SFT", "trained in float64", lambda b: b.sft(dtype=DOUBLE), 1e-6),
    Case("reward", "margin small", lambda b: b.reward()),
    Case("reward", "margin large + 0.01 center", lambda b: b.reward({"margin": 1.0, "center": 0.01}, "large")),
    Case("reward", "no margin (Llama 3)", lambda b: b.reward({"bradley_terry": 1.0})),
    Case("reward", "all answers of a prompt in a row", lambda b: b.reward(listwise=True)),
    Case("reward", "with a safety head", lambda b: b.reward(safety=0.5)),
    Case("reward", "all of these, 8 accumulated rows", lambda b: b.reward(ALL, "small", 0.5, True, **ACCUMULATED)),
    Case("reward", "trained in float64", lambda b: b.reward(ALL, "small", 0.5, True, DOUBLE), 1e-6),
    Case("DPO", "format tokens masked, 0.2 NLL (Llama 3)", lambda b: b.dpo()),
    Case("DPO", "not masked", lambda b: b.dpo(mask_format_tokens=False)),
    Case("DPO", "without NLL", lambda b: b.dpo(nll_coefficient=0.0)),
    Case("DPO", "neither (plain DPO)", lambda b: b.dpo(mask_format_tokens=False, nll_coefficient=0.0)),
    Case("DPO", "prompts not shared", lambda b: b.dpo(share_prompts=False)),
    Case("DPO", "references computed beforehand", lambda b: b.dpo(precompute_ref_log_probs=True)),
    Case("DPO", "8 accumulated pairs", lambda b: b.dpo(**ACCUMULATED)),
    Case("DPO", "LoRA", lambda b: b.dpo(lora=True)),
    Case("DPO", "LoRA, beforehand, 8 accumulated", lambda b: b.dpo(True, **BEFOREHAND)),
    Case("DPO", "trained in float64", lambda b: b.dpo(dtype=DOUBLE), 1e-6),
]
# as two processes run them, each with half of the rows
HALF = {"per_device_train_batch_size": ROWS // 2}
SLOW = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": ROWS // 2}
AHEAD = HALF | {"precompute_ref_log_probs": True}
TWO = [
    Case("SFT", "two processes", lambda b, **o: b.sft(**HALF | o)),
    Case("SFT", "two processes, 4 accumulated rows each", lambda b, **o: b.sft(**SLOW | o)),
    Case("reward", "two processes, ranked, safety head", lambda b, **o: b.reward(ALL, "small", 0.5, True, **HALF | o)),
    Case("DPO", "two processes", lambda b, **o: b.dpo(**HALF | o)),
    Case("DPO", "two processes, 4 accumulated pairs each", lambda b, **o: b.dpo(**SLOW | o)),
    Case("DPO", "two processes, LoRA, beforehand", lambda b, **o: b.dpo(True, **AHEAD | o)),
]


SHARDED = [
    Case("SFT", "two processes, FSDP2", lambda b, **o: b.sft(**HALF | o)),
    Case("reward", "two processes, FSDP2", lambda b, **o: b.reward(ALL, "small", 0.5, True, **HALF | o)),
    Case("DPO", "two processes, FSDP2", lambda b, **o: b.dpo(**HALF | o)),
]


def sharded(trainer, _) -> dict:
    """As `trained`, under PyTorch's own sharding, which accelerate leaves out on processors: loss and gradient."""
    model, half = trainer.model.train(), ROWS // 2
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    rows = [trainer.train_dataset[trainer.args.process_index * half + i] for i in range(half)]
    batch, labelled = trainer.data_collator(rows), None
    if "labels" in batch:
        labelled = trainer.accelerator.reduce((batch["labels"][:, 1:] != -100).sum(), "sum")
    loss = trainer.compute_loss(model, batch, num_items_in_batch=labelled)
    loss.backward()
    gradients = {name: p.grad.full_tensor().double() for name, p in model.named_parameters()}
    return {"loss": trainer.accelerator.reduce(loss.detach(), "mean").item(), "gradients": gradients, "adapters": {}}


def trained(trainer) -> dict:
    """What one SGD step tells: the loss, the gradient of every trained weight, and adapters as they were."""
    adapters = {}
    for name, module in trainer.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight.data, module.lora_B["default"].weight.data
            # both drawn here, in one way in all processes; B would start at zero, where A has no gradient
            for seed, weight in enumerate((a, b)):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)
            layer = name.removeprefix("base_model.model.") + ".weight"
            adapters[layer] = (a.clone(), b.clone(), module.scaling["default"])
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    gradients = {name: (before[name] - model.get_parameter(name).detach()).double() / RATE for name in before}
    return {"loss": trainer.state.log_history[0]["loss"], "gradients": gradients, "adapters": adapters}


def difference(bench: Bench, case: Case, found: dict | None = None) -> tuple[float, float]:
    """Largest differences of loss and gradient from the plain implementation; `found` if trained elsewhere."""
    trainer, plain_loss = case.make(bench)
    found = found or trained(trainer)
    kind = "reward" if case.objective == "reward" else "causal"
    plain = bench.plain(kind, labels=trainer.model.config.num_labels if kind == "reward" else 1)
    with torch.no_grad():
        for name, (a, b, scale) in found["adapters"].items():
            plain.get_parameter(name).add_(scale * b.double() @ a.double())
    loss = plain_loss(plain)
    loss.backward()
    gaps = [(ours - _gradient(plain, name, found["adapters"])).abs().max() for name, ours in found["gradients"].items()]
    return abs(found["loss"] - loss.item()), max(gaps).item()


def _gradient(plain, name: str, adapters: dict) -> torch.Tensor:
    if ".lora_" not in name:
        return plain.get_parameter(name).grad
    layer, part = name.removeprefix("base_model.model.").split(".lora_")
    a, b, scale = adapters[f"{layer}.weight"]
    whole = plain.get_parameter(f"{layer}.weight").grad
    # W + s B A: dA = s B' dW, dB = s dW A'
    return scale * (b.double().T @ whole if part[0] == "A" else whole @ a.double().T)


def evaluation(bench: Bench, **changes) -> dict[str, float]:
    """What an untrained reward model logs on seven rows, which two processes cannot share evenly."""
    trainer, _ = bench.reward(ALL, "small", 0.5, True, per_device_eval_batch_size=2, **changes)
    found = trainer.evaluate(trainer.train_dataset.select(range(7)))
    return {name: value for name, value in found.items() if not is_timing(name)}


def in_two_processes(bench: Bench, warm: Warm) -> list[dict]:
    """`trained` for every case of `TWO`, by data parallel processes, and `sharded` for those of `SHARDED`."""
    for kind, seed, labels in (("causal", 0, 1), ("causal", 1, 1), ("reward", 0, 2)):
        bench.path(kind, seed, labels)  # before two processes write it at once
    config = Path(__file__).parents[2] / "accelerate_configs" / "cpu_ddp.yaml"
    command = [*LAUNCHER, "--config_file", config, "--main_process_port", "0"]
    command += ["-m", "tests.trainers.differences", "--worker", bench.folder]
    done = warm.run(command, os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr[-12000:])
    return torch.load(bench.folder / "two.pt", weights_only=True)


def _work(folder: Path) -> None:
    bench, found = Bench(folder), []
    for case in TWO:
        trainer, _ = case.make(bench, ddp_backend="gloo")
        assert trainer.args.world_size == 2
        found.append(trained(trainer))
    found[0]["evaluation"] = evaluation(bench, ddp_backend="gloo")
    found += [sharded(*case.make(bench, ddp_backend="gloo")) for case in SHARDED]
    if trainer.is_world_process_zero():
        torch.save(found, folder / "two.pt")
    trainer.accelerator.wait_for_everyone()
    del trainer, bench
    recipe.leave_group()


PAGE = """# The trainers against plain implementations

One SGD step of a model of two layers in float32 (unless said) on {rows} random rows, against `tests/trainers/plain.py`:
every answer alone, full logits, float64. The gradient is read from the step. Dialogs have several turns, tools, and
text that looks like control tokens.

    python -m tests.trainers.differences

| objective | variant | reference it was checked against | loss differs by | gradient differs by |
|---|---|---|---|---|
{lines}

PPO's are those of one mini-batch after policy and critic have moved, with ratios and values beyond their clips; of
advantages it is the largest difference of any token. Log-probabilities and values are float32 whatever weights are.
Differences are absolute, the largest over all weights. Losses are of the order of 1 to 6 (logged in float32, hence
about 1e-7 even where the step is made in float64), the largest gradients of the order of 0.1 to 1.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench, lines = Bench(Path(folder)), []
        rows = [(case, difference(bench, case)) for case in CASES]
        found = in_two_processes(bench, Warm())
        rows += [(case, difference(bench, case, f)) for case, f in zip(TWO + SHARDED, found, strict=True)]
        for case, (loss, gradient) in rows:
            lines.append(f"| {case.objective} | {case.variant} | {PLAIN} | {loss:.1e} | {gradient:.1e} |")
        for dtype, words in ((torch.float32, ""), (DOUBLE, ", weights in float64")):
            for name, (gap, gradient) in ppo_differences(bench, dtype).items():
                last = "" if gradient is None else f"{gradient:.1e}"
                lines.append(f"| PPO | {name}{words} | {PLAIN} | {gap:.1e} | {last} |")
        page = Path(__file__).parents[2] / "docs" / "results" / "trainers.md"
        page.write_text(PAGE.format(rows=ROWS, lines="\n".join(lines)))


if __name__ == "__main__":
    _work(Path(sys.argv[2])) if "--worker" in sys.argv else main()

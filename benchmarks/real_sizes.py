"""Memory, time and disk of every step of the plans for published models: computed from their YAMLs, not measured.

    python benchmarks/real_sizes.py            # the tables of docs/real_sizes.md

Formulas and their sources are in `llama_align.sizes.cost` and `llama_align.sizes.footprint`; what is assumed stands
in the tables below.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.commands.config.config_args import load_config_from_file

from llama_align.data import DataSource
from llama_align.models import parameter_count, preset
from llama_align.rounds import Plan
from llama_align.sizes.cost import activation_bytes, flops, kv_cache_bytes, logit_bytes
from llama_align.sizes.footprint import (
    OPTIMIZER,
    TRAINED,
    adapter_count,
    frozen_bytes,
    gathered_bytes,
    sampling_seconds,
    training_flops,
)

PROJECT = Path(__file__).parents[1]
GB, HOUR = 1e9, 3600
TRAINING, ENGINES = ("sft", "reward", "dpo", "ppo"), ("rejection_sampling", "evaluate")
CHUNK = 2048  # tokens whose logits exist at once: of kernels/head.py, at a vocabulary of 32,000 or more


@dataclass(frozen=True)
class Device:
    """name: as the page calls it. peak, bandwidth: of the data sheet. mfu, share: of either that is assumed reached."""

    name: str
    peak: float
    bandwidth: float
    mfu: float
    share: float
    half: bool


# NVIDIA H100 data sheet, SXM; MFU as Llama 3's (section 3.3.2: 38 to 43%)
H100 = Device("H100 80 GB", 989e12, 3.35e12, 0.40, 0.30, half=True)
# four cores of 16 float32 multiply-adds a cycle at 3 GHz, DDR4-3200 in two channels; float32
LAPTOP = Device("laptop, four cores", 4 * 96e9, 51e9, 0.35, 0.60, half=False)

SIZES = {  # folder -> size, bytes of a published weight, device
    "llama-3.2-1b": ("llama-3.2-1b", 2, H100),
    "llama-3.1-8b": ("llama-3.1-8b", 2, H100),
    "llama-2-7b": ("llama-2-7b", 2, H100),
    "smollm2-135m": ("smollm2-135m", 2, LAPTOP),
}
# rows of the split, answers in a row, tokens of prompt and answer: rows as the data set's card has them, tokens
# estimated from its bytes at four a token
RECORDS = {
    "allenai/tulu-3-sft-mixture": (939_343, 1, 350, 400),
    "HuggingFaceTB/smol-smoltalk": (460_341, 1, 450, 500),
    "databricks/databricks-dolly-15k": (15_011, 1, 110, 90),
    "nvidia/HelpSteer": (8_800, 4, 400, 200),
    "HuggingFaceH4/ultrafeedback_binarized": (61_135, 2, 180, 320),
    "PKU-Alignment/PKU-SafeRLHF": (73_900, 2, 25, 90),
}
OPENING, ANSWER = 180, 300  # tokens of a sampled prompt, and of an answer where the limit does not end it


@dataclass
class Step:
    """A step of a plan and what it needs.

    Args:
        config: its options. size: configuration of the model. stored: bytes of a weight on disk. processes: devices.
        sharded: weights are shared among them. offloaded: the optimizer's states are in main memory.
        sampled: prompts, and tokens of an answer, of the rejection sampling before it.
    """

    config: dict
    size: object
    stored: int
    device: Device
    processes: int
    sharded: bool
    offloaded: bool
    sampled: tuple[float, int]

    @property
    def peak(self) -> float:
        return self.device.peak * self.device.mfu

    @property
    def bandwidth(self) -> float:
        return self.device.bandwidth * self.device.share

    @property
    def sampled_dtype(self) -> torch.dtype:
        return getattr(torch, self.config.get("dtype", "bfloat16"))

    @property
    def adapters(self) -> bool:
        return bool(self.config.get("use_peft"))

    # -- data

    def rows(self) -> list[tuple[float, int, int, int]]:
        """Number of rows, answers in each, tokens of prompt and answer, by source."""
        found = []
        for source in map(DataSource.parse, self.config["datasets"]):
            if source.path not in RECORDS:  # of an earlier step
                prompts, answer = self.sampled
                found.append((prompts, 2, OPENING, answer))
                continue
            count, answers, prompt, answer = RECORDS[source.path]
            part = self.config.get("part") or source.part or [0, 1]
            count = count * (part[1] - part[0]) / (2 if source.where else 1)
            most = (source.max_chars or 10**9) // 4
            scale = min(1, most / (prompt + answers * answer))
            found.append((min(count, source.limit or count), answers, int(prompt * scale), int(answer * scale)))
        return found

    @property
    def answer(self) -> int:
        limit = self.config.get("max_new_tokens") or self.config.get("max_completion_length") or ANSWER
        return min(ANSWER, limit)

    # -- memory of one device

    def states(self, networks: int = 1) -> float:
        """Weights, gradients and the states of the optimizer."""
        total = networks * parameter_count(self.size)
        if self.adapters:
            quantised = bool(self.config.get("load_in_4bit"))
            dtype = getattr(torch, self.config.get("dtype") or "float32")
            return frozen_bytes(self.size, dtype, quantised) + TRAINED * adapter_count(self.size, self.config["lora_r"])
        each = TRAINED - OPTIMIZER * self.offloaded
        if not self.sharded:
            return each * total
        return each * total / self.processes + gathered_bytes(self.size)

    def activations(self, length: int, rows: int, networks: int = 1) -> float:
        half = torch.bfloat16 if self.device.half else None
        quantised = bool(self.config.get("load_in_4bit"))
        dtype = torch.bfloat16 if half and (self.sharded or quantised) else torch.float32
        kept = activation_bytes(self.size, rows, length, dtype, half, bool(self.config.get("gradient_checkpointing")))
        return networks * kept + logit_bytes(self.size, rows * length, half or torch.float32, CHUNK)

    def memory(self, recipe: str) -> float:
        rows = self.config.get("per_device_train_batch_size", 0)
        if recipe == "sft":
            return self.states() + self.activations(self.config["max_length"], rows)
        if recipe in ("reward", "dpo"):  # the longest a row may be; two answers to each prompt
            length = self.config.get("context") or self.config["max_length"]
            reference = recipe == "dpo" and not self.config.get("precompute_ref_log_probs") and not self.adapters
            kept = parameter_count(self.size) * self.trained_dtype.itemsize / (self.processes if self.sharded else 1)
            return self.states() + self.activations(length, 2 * rows) + reference * kept
        if recipe == "ppo":
            return self.ppo_memory(rows)
        if recipe == "average":
            return 0
        weights = parameter_count(self.size) * self.sampled_dtype.itemsize
        return weights + self.cached * kv_cache_bytes(self.size, self.sampled_dtype)

    @property
    def trained_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.sharded else torch.float32

    @property
    def cached(self) -> int:
        return self.config.get("max_cached_tokens") or 65536

    def ppo_memory(self, rows: int) -> float:
        """Policy and critic in training, the reference shared, reward models and, to sample, the policy whole."""
        weights = parameter_count(self.size)
        drawn = self.config["generation_batch_size"] // self.processes * (OPENING + self.answer)
        sampling = weights * 2 + min(drawn, 65536) * kv_cache_bytes(self.size)
        training = self.activations(OPENING + self.answer, rows, networks=2)
        kept = self.states(networks=2) + weights * 2 / self.processes
        return kept + len(self.config["reward_models"]) * weights * 2 + max(sampling, training)

    # -- seconds of all devices together

    def seconds(self, recipe: str) -> float:
        if recipe == "ppo":
            return self.ppo_seconds()
        if recipe in TRAINING:
            epochs = self.config.get("num_train_epochs", 1)
            work = 0.0
            for count, answers, prompt, answer in self.rows():
                answers = answers if recipe != "sft" else 1
                work += count * answers * training_flops(self.size, [prompt + answer], self.adapters)
                # the reference's pass
                work += (recipe == "dpo") * count * answers * flops(self.size, [prompt + answer]).forward / epochs
            return epochs * work / self.peak
        if recipe == "average":
            return 0
        prompts = sum(count for count, *_ in self.rows())
        judges = len(self.config["reward_models"]) + len(self.config.get("heldout_models", {}))
        models = len(self.config["models"]) if recipe == "evaluate" else 1
        answers = prompts * models * self.config.get("answers", 1)
        if searched := self.config.get("temperature_search"):
            tried = sum(DataSource.parse(source).limit for source in self.config["search_datasets"])
            answers += tried * len(searched) * self.config["answers"]
        return self.drawn(answers) + judges * self.scored(answers)

    def drawn(self, answers: float) -> float:
        dtype = self.sampled_dtype
        rates = self.peak, self.bandwidth
        return sampling_seconds(self.size, int(answers), OPENING, self.answer, self.cached, *rates, dtype)

    def scored(self, answers: float, passes: int = 1) -> float:
        return passes * answers * flops(self.size, [OPENING + self.answer]).forward / self.peak

    def ppo_seconds(self) -> float:
        batch = self.config["generation_batch_size"]
        steps = batch // (self.config["per_device_train_batch_size"] * self.config["gradient_accumulation_steps"])
        answers = batch * self.config["max_steps"] * self.processes / steps
        judged = self.scored(answers, len(self.config["reward_models"]) + 3)  # reference, old policy, old critic
        trained = 2 * answers * training_flops(self.size, [OPENING + self.answer]) / self.peak
        return self.drawn(answers) + judged + trained

    # -- disk

    def disk(self, recipe: str) -> float:
        """What a step leaves, with the checkpoint it goes on from."""
        weights = parameter_count(self.size)
        if recipe in ENGINES:
            prompts = sum(count for count, *_ in self.rows())
            return prompts * self.config.get("answers", 1) * (OPENING + self.answer) * 5
        left = weights * self.stored * (2 if recipe == "ppo" else 1)
        if self.adapters:
            merged = weights * self.stored * ("{" in str(self.config["model_name_or_path"]))
            left = 4 * adapter_count(self.size, self.config["lora_r"]) + merged
        trained = adapter_count(self.size, self.config["lora_r"]) if self.adapters else weights
        if recipe == "ppo":
            trained *= 2
        saved = self.config.get("save_strategy") == "steps"
        return left + saved * trained * (OPTIMIZER + 2 * self.sharded)


def steps_of(path: Path) -> list[tuple[str, str, Step]]:
    """Name and recipe of every step of a plan, and the step."""
    plan = Plan.load(path, PROJECT / "recipes")
    name, stored, device = SIZES[path.parent.name]
    found, sampled = [], (0, 0)
    for step in plan.steps:
        config = plan.configs[step.name]
        launch = load_config_from_file(step.launch) if step.launch else None
        processes = launch.num_processes if launch else 1
        settings = launch.deepspeed_config if launch else {}
        sharded = bool(settings)
        offloaded = settings.get("offload_optimizer_device") == "cpu"
        made = Step(config, preset(name), stored, device, processes, sharded, offloaded, sampled)
        if step.recipe == "rejection_sampling":
            sampled = sum(count for count, *_ in made.rows()), made.answer
        found.append((step.name, step.recipe, made))
    return found


def table(path: Path) -> str:
    """The plan's steps as Markdown."""
    device = SIZES[path.parent.name][2]
    unit = "GPU hours" if device is H100 else "hours"
    lines = [f"### {path.parent.name}/{path.name}", ""]
    lines += [f"| step | devices | memory of each, GB | {unit} | disk, GB |", "|---|---|---|---|---|"]
    hours = disk = most = 0.0
    for name, recipe, step in steps_of(path):
        memory, spent, left = step.memory(recipe) / GB, step.seconds(recipe) / HOUR, step.disk(recipe) / GB
        used = "-" if recipe == "average" else step.processes
        lines.append(f"| {name} | {used} | {_short(memory)} | {_short(spent)} | {_short(left)} |")
        hours, disk, most = hours + spent, disk + left, max(most, memory)
    lines.append(f"| **all** | | **{_short(most)}** | **{_short(hours)}** | **{_short(disk)}** |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return "-" if value == 0 else f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "under 0.1"


def tables() -> str:
    """Every plan's table, in the order of `SIZES`."""
    plans = [path for folder in SIZES for path in sorted((PROJECT / "recipes" / folder).glob("rounds*.yaml"))]
    return "\n\n".join(map(table, plans))


if __name__ == "__main__":
    print(tables())

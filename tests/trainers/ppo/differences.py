"""PPO's losses, their gradients and its advantages beside plain formulas in float64, one answer at a time."""

import copy

import torch
from datasets import Dataset

from llama_align import recipe
from llama_align.trainers import PPOConfig, PPOTrainer
from llama_align.trainers.ppo.math import gae

from ..plain import plain_gae, plain_ppo_policy, plain_ppo_value

LONGEST = 24


def rollout(bench, dtype: torch.dtype, rows: int):
    """A trainer, a batch it sampled, and weights that have moved since: neither ratio nor value is the old one."""
    prompts = [{"prompt": [{"role": "user", "content": "bado " * (n % 3 + 1)}]} for n in range(rows)]
    options = {"max_completion_length": LONGEST, "beta": 0.1, "check_first_batch": False}
    trainer = PPOTrainer(
        recipe.load_model(bench.path("causal"), dtype=dtype),
        reward=lambda _, answers, *__: [float(answer.count("a")) for answer in answers],
        value_model=recipe.load_model(bench.path("reward", 2), "value", dtype=dtype),
        args=PPOConfig(**bench.options(**options)),
        train_dataset=Dataset.from_list(prompts),
        processing_class=bench.tokenizer,
    )
    trainer.model.train()
    batch = trainer._generate_and_score_completions(prompts)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.005 * torch.randn(weight.shape, generator=draw).to(dtype))
    return trainer, batch


def ppo_differences(bench, dtype: torch.dtype = torch.float32, rows: int = 8) -> dict[str, tuple[float, float | None]]:
    """Largest differences of both losses and their gradients, and of advantages, from plain formulas, by name."""
    trainer, batch = rollout(bench, dtype, rows)
    found = {f"{part}'s loss": _losses(trainer, batch, part) for part in ("policy", "critic")}
    lengths = batch["completion_mask"].sum(1).tolist()
    return found | {"advantages (GAE)": (_advantages(dtype, lengths), None)}


def _losses(trainer, batch, part: str) -> tuple[float, float]:
    lengths = batch["completion_mask"].sum(1).tolist()
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    answers = [ids[:n].tolist() for ids, n in zip(batch["completion_ids"], lengths, strict=True)]
    columns = {
        name: [row[:n].double() for row, n in zip(batch[name], lengths, strict=True)]
        for name in ("old_logps", "old_values", "advantages", "returns")
    }
    ours = getattr(trainer.model, part)
    plain = copy.deepcopy(ours).double()
    plain.__dict__.pop("forward", None)
    trainer.model.zero_grad()
    # of advantages 0 the policy's loss is 0 and the critic's is left
    inputs = batch if part == "policy" else batch | {"advantages": torch.zeros_like(batch["advantages"])}
    trainer.args.value_coefficient = float(part == "critic")
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    wanted = {"policy": plain_ppo_policy, "critic": plain_ppo_value}[part](plain, prompts, answers, columns)
    wanted.backward()
    gaps = [
        (weight.grad.double() - plain.get_parameter(name).grad).abs().max().item()
        for name, weight in ours.named_parameters()
    ]
    return abs(loss.item() - wanted.item()), max(gaps)


def _advantages(dtype: torch.dtype, lengths: list[int]) -> float:
    draw = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, len(lengths), LONGEST, generator=draw).to(dtype)
    mask = (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).to(dtype)
    ours, _ = gae(rewards * mask, values, mask, 0.97, 0.9)
    gaps = []
    for row, n in enumerate(lengths):
        wanted = plain_gae(rewards[row, :n].tolist(), values[row, :n].tolist(), 0.97, 0.9)
        gaps.append((ours[row, :n].double() - torch.tensor(wanted, dtype=torch.float64)).abs().max().item())
    return max(gaps)

"""PPO from human preferences (Llama 2, section 3.2.3), on the machinery of TRL's RLOOTrainer.

TRL's part: generation buffers, samplers, the reference model, launch modes, logging. Ours: sampling through
`llama_align.sampling`, rewards as any function of dialogs, the critic, advantages and losses (`ppo_math`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import gather
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import RLOOConfig, RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.utils import pad, use_adapter

from ..chat import ControlTokens, Message, decode_answer, render_prompt
from ..heads import attach_head, values_of_rows
from ..sampling.engine import SamplingParams
from ..sampling.make import make_engine
from ..training import CardMixin
from .ppo_math import gae, masked_mean, policy_loss, token_rewards, value_loss, whiten

# (prompts, answers, finished, rows of the prompt data set) -> one score per answer, or several named ones
Reward = Callable[[Sequence[list[Message]], Sequence[str], Sequence[bool], Sequence[dict]], dict[str, Sequence[float]]]


@dataclass
class PPOConfig(RLOOConfig):
    """TRL's `RLOOConfig` (generation, batches, `beta` as KL coefficient, `epsilon` as ratio clip) and the critic's."""

    num_generations: int | None = field(default=1, metadata={"help": "answers per prompt"})
    beta: float = field(default=0.01, metadata={"help": "KL coefficient: Llama 2 uses 0.01 (7B, 13B), 0.005 (larger)"})
    gamma: float = field(default=1.0, metadata={"help": "discount"})
    lam: float = field(default=0.95, metadata={"help": "GAE lambda"})
    value_coefficient: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    value_clip: float = field(default=0.2, metadata={"help": "clip of the value around its old one"})
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "the critic's own (default: the policy's)"}
    )
    whiten_scores: bool = field(default=True, metadata={"help": "whiten the combined score over the batch (Llama 2)"})
    whiten_advantages: bool = field(default=True, metadata={"help": "whiten advantages over the batch"})
    truncation_penalty: float = field(
        default=1.0, metadata={"help": "taken off the score of an answer cut at the limit"}
    )

    def __post_init__(self):
        for name in ("epsilon_high", "reward_clip_range", "reward_weights"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected nothing; PPO does not use it")
        # RLOOConfig refuses fewer than two answers per prompt, which PPO with a critic does not need: while it checks,
        # the number is one that divides the generation batch
        answers = self.num_generations
        if answers == 1:
            self.num_generations_eval = self.num_generations_eval or 1
            sizes = (self.per_device_train_batch_size, self.generation_batch_size, self.steps_per_generation)
            self.num_generations = next((n for n in (*sizes, self.gradient_accumulation_steps) if n and n > 1), 2)
        super().__post_init__()
        self.num_generations = answers


class PPOTrainer(CardMixin, RLOOTrainer):
    """Proximal policy optimisation of a chat model with a critic.

    Args:
        model: policy, or its path; the reference of the KL term is its initial state.
        reward: see `Reward`. Of several named scores, `combined` is optimised and all are logged.
        value_model: a token-classification model with one label, usually loaded from the reward model.
        train_dataset: rows with `prompt` (messages) and whatever else the reward reads.

    Logged: `reward` (combined score), `rewards/<name>`, `kl` (sum over an answer, nats), `objective/rlhf` (reward minus
    the KL penalty), `entropy`, `loss/policy`, `loss/value`, `value/explained_variance`, `policy/ratio`,
    `policy/clip_fraction`, `policy/approx_kl`, `answers/length`, `answers/finished`.
    """

    _tag_names = ["llama-align", "ppo"]  # noqa: RUF012
    _name = "PPO"
    _paper = {}  # noqa: RUF012
    objective = "clipped policy gradient, KL to the initial policy per token"
    paper = "Llama 2, section 3.2.3"

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward: Reward,
        value_model: PreTrainedModel,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        super().__init__(model, reward_funcs=_unused_reward, args=args, processing_class=processing_class, **kwargs)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(
                "launch: found DeepSpeed or FSDP, expected one process or data parallel; PPO's critic has no engine"
            )
        self.reward = reward
        self.tokens = ControlTokens.of(processing_class)
        # log-probabilities are those of the model itself, not of the distribution warped for sampling
        for network in filter(None, (self.model, self.ref_model)):
            base = self.accelerator.unwrap_model(network)
            base = base.get_base_model() if hasattr(base, "get_base_model") else base
            base.__dict__.pop("forward", None)
            attach_head(base, outputs=("log_probs", "entropy"))
        value_model.config.pad_token_id = self.tokens.pad
        for module in value_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        value_model.train()  # activations are only checkpointed in training mode
        if args.gradient_checkpointing:
            value_model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        self.value_model = self.accelerator.prepare_model(value_model)
        self.add_callback(_FreshGradients(self.value_model))

    def _get_train_sampler(self, dataset=None):
        return _EpochSampler(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    # -- the critic shares the optimizer, with its own learning rate

    def create_optimizer(self, model=None):
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            optimizer.add_param_group(
                {
                    "params": [p for p in self.value_model.parameters() if p.requires_grad],
                    "lr": self.args.value_learning_rate or self.args.learning_rate,
                    "weight_decay": self.args.weight_decay,
                }
            )
        return optimizer

    def _clip_grad_norm(self, model):
        self.accelerator.clip_grad_norm_(self.value_model.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def _save_checkpoint(self, model, trial):
        # before the rest: Trainer writes trainer_state.json last, so a checkpoint that has it is whole
        folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        self.save_value_model(os.path.join(folder, "value_model"))
        if not self.args.save_only_model:
            os.makedirs(folder, exist_ok=True)
            used_up = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
            rollout = {"step": self._step, "answers": None if used_up else self._buffered_inputs}
            torch.save(rollout, self._rollout_file(folder))
        super()._save_checkpoint(model, trial)

    def _rollout_file(self, folder: str) -> str:
        return os.path.join(folder, f"rollout_{self.accelerator.process_index}.pt")

    def save_value_model(self, folder: str) -> None:
        """Writes the critic as safetensors."""
        critic = self.accelerator.unwrap_model(self.value_model)
        state = self.accelerator.get_state_dict(self.value_model)
        if self.accelerator.is_main_process:
            critic.save_pretrained(folder, state_dict=state)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        critic = self.accelerator.unwrap_model(self.value_model)
        stored = type(critic).from_pretrained(os.path.join(resume_from_checkpoint, "value_model"), dtype=critic.dtype)
        critic.load_state_dict(stored.state_dict())
        # the step names the random streams of the answers to come; answers not yet learned from come back too
        file = self._rollout_file(resume_from_checkpoint)
        rollout = torch.load(file, map_location=self.accelerator.device, weights_only=True)
        self._step, self._buffered_inputs = rollout["step"], rollout["answers"]

    # -- rollout

    def _sample(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        if self.use_vllm:
            return self._generate_single_turn(prompt_ids, None, {})
        params = SamplingParams(
            n=1,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty,
            seed=self.args.seed,
        )
        # a stream of random numbers of its own for every answer ever sampled, on every process
        first = (self._step * self.accelerator.num_processes + self.accelerator.process_index) * len(prompt_ids)
        keys = list(range(first, first + len(prompt_ids)))
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as policy:
            answers = make_engine("auto", policy).generate(prompt_ids, params, set(self.tokens.terminators), keys=keys)
        return [answer[0].ids for answer in answers]

    def _logps(self, model, batch, compute_entropy=False):
        ids_BL, mask_BL = _joined(batch)
        answer_length = batch["completion_ids"].size(1)
        rows = self.args.per_device_train_batch_size  # a rollout may hold many times what fits into memory at once
        return self._get_per_token_logps_and_entropies(
            model, ids_BL, mask_BL, answer_length, batch_size=rows, compute_entropy=compute_entropy
        )[:2]

    def _reference_logps(self, batch):
        if self.ref_model is not None:
            return self._logps(self.ref_model, batch)[0]
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return self._logps(self.model, batch)[0]

    def _values(self, batch):
        parts = (tensor.split(self.args.per_device_train_batch_size) for tensor in _joined(batch))
        answer_length = batch["completion_ids"].size(1)
        with self.accelerator.autocast():
            values_BL = torch.cat(
                [values_of_rows(self.value_model, *part, answer_length) for part in zip(*parts, strict=True)]
            )
        # V(s_t) stands at the token before a_t
        return values_BL[:, -answer_length - 1 : -1].float()

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        device, tokenizer = self.accelerator.device, self.processing_class
        prompts = [row["prompt"] for row in inputs]
        prompt_ids = [render_prompt(tokenizer, prompt, self.tokens) for prompt in prompts]
        answer_ids = self._sample(prompt_ids)
        finished = [bool(ids) and ids[-1] in self.tokens.terminators for ids in answer_ids]
        texts = [decode_answer(tokenizer, ids, self.tokens) for ids in answer_ids]
        batch = {
            **_padded("prompt", prompt_ids, self.tokens.pad, "left", device),
            **_padded("completion", answer_ids, self.tokens.pad, "right", device),
        }
        if self.mask_truncated_completions:
            batch["completion_mask"] *= torch.tensor(finished, device=device).long()[:, None]
        mask_BT = batch["completion_mask"].float()

        scores = {
            k: torch.tensor(v, device=device).float() for k, v in self.reward(prompts, texts, finished, inputs).items()
        }
        if len(scores) > 1 and "combined" not in scores:
            raise ValueError(f"reward: found scores {', '.join(scores)}, expected one, or 'combined' among them")
        combined_B = score_B = scores["combined"] if len(scores) > 1 else next(iter(scores.values()))
        if self.args.whiten_scores:
            score_B = whiten(score_B, torch.ones_like(score_B), self._reduce_sum)
        cut_B = ~torch.tensor(finished, device=device)
        score_B = score_B - self.args.truncation_penalty * cut_B

        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            old_logps_BT = self._logps(self.model, batch)[0].float()
            reference_BT = self._reference_logps(batch).float() if self.beta else old_logps_BT
            values_BT = self._values(batch) * mask_BT
        kl_BT = (old_logps_BT - reference_BT) * mask_BT
        rewards_BT = token_rewards(score_B, kl_BT, mask_BT, self.beta)
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam)
        if self.args.whiten_advantages:
            advantages_BT = whiten(advantages_BT, mask_BT, self._reduce_sum)
        self._log_rollout(scores, combined_B, kl_BT, mask_BT, cut_B)
        return batch | {
            "advantages": advantages_BT,
            "returns": returns_BT,
            "old_values": values_BT,
            "old_logps": old_logps_BT,
        }

    # -- losses

    def _compute_loss(self, model, inputs):
        mask_BT = inputs["completion_mask"].float()
        logps_BT, entropy_BT = self._logps(model, inputs, compute_entropy=True)
        values_BT = self._values(inputs)
        policy_BT = policy_loss(logps_BT, inputs["old_logps"], inputs["advantages"], self.epsilon_low)
        value_BT = value_loss(values_BT, inputs["old_values"], inputs["returns"], self.args.value_clip)
        policy, value = masked_mean(policy_BT, mask_BT), masked_mean(value_BT, mask_BT)
        self._log_losses(policy, value, logps_BT.detach(), entropy_BT, values_BT.detach(), inputs, mask_BT)
        return policy + self.args.value_coefficient * value

    # -- diagnostics

    def _reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, "sum")

    def _log_mean(self, name: str, values: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(gather(values.detach().float().reshape(-1)).mean().item())

    def _log_rollout(self, scores, combined_B, kl_BT, mask_BT, cut_B) -> None:
        self._log_mean("reward", combined_B)
        for name, score_B in scores.items():
            if name != "combined":
                self._log_mean(f"rewards/{name}", score_B)
        self._log_mean("kl", kl_BT.sum(1))
        self._log_mean("objective/rlhf", combined_B - self.beta * kl_BT.sum(1))
        self._log_mean("answers/length", mask_BT.sum(1))
        self._log_mean("answers/finished", 1 - cut_B.float())

    def _log_losses(self, policy, value, logps_BT, entropy_BT, values_BT, inputs, mask_BT) -> None:
        log_ratio_BT = (logps_BT - inputs["old_logps"]) * mask_BT
        ratio_BT = log_ratio_BT.exp()
        clipped_BT = ((ratio_BT - 1).abs() > self.epsilon_low).float()
        returns_BT = inputs["returns"]
        spread = masked_mean((returns_BT - masked_mean(returns_BT, mask_BT)) ** 2, mask_BT)
        unexplained = masked_mean((returns_BT - values_BT) ** 2, mask_BT)
        self._log_mean("loss/policy", policy)
        self._log_mean("loss/value", value)
        self._log_mean("entropy", masked_mean(entropy_BT, mask_BT))
        self._log_mean("policy/ratio", masked_mean(ratio_BT, mask_BT))
        self._log_mean("policy/approx_kl", masked_mean(0.5 * log_ratio_BT**2, mask_BT))
        self._log_mean("policy/clip_fraction", masked_mean(clipped_BT, mask_BT))
        self._log_mean("value/explained_variance", 1 - unexplained / spread.clamp(min=1e-8))


class _EpochSampler(Sampler):
    """TRL's RepeatSampler in an order that depends on seed and epoch alone, so that a resumed run meets it again."""

    def __init__(self, repeating: Sampler, epoch: Callable[[], int]):
        self.repeating = repeating
        self.epoch = epoch

    def __iter__(self):
        if self.repeating.shuffle:
            self.repeating.generator.manual_seed(self.repeating.seed + self.epoch())
        return iter(self.repeating)

    def __len__(self):
        return len(self.repeating)


class _FreshGradients(TrainerCallback):
    """Every step starts from zero gradients of the critic; Trainer zeroes those of the policy only."""

    def __init__(self, critic: torch.nn.Module):
        self.critic = critic

    def on_step_begin(self, args, state, control, **kwargs):
        self.critic.zero_grad()


def _unused_reward(prompts, completions, **_):
    """RLOOTrainer wants a reward function; PPO scores in its own rollout."""
    raise AssertionError("RLOOTrainer's reward path is not used by PPO")


def _padded(name: str, rows: list[list[int]], pad_id: int, side: str, device) -> dict[str, torch.Tensor]:
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return {
        f"{name}_ids": pad(ids, padding_value=pad_id, padding_side=side).to(device),
        f"{name}_mask": pad(mask, padding_value=0, padding_side=side).to(device),
    }


def _joined(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt and answer in one row: ids and mask, [B, L]."""
    ids_BL = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return ids_BL, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)

"""PPO from human preferences (Llama 2, section 3.2.3), on the machinery of TRL's RLOOTrainer.

TRL's part: generation buffers, samplers, the reference model, launch modes, logging. Ours: sampling through
`llama_align.sampling`, rewards as any function of dialogs or text, the critic, advantages and losses (`math`).
"""

import os

import torch
from accelerate.utils import gather, send_to_device
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer import rloo_trainer
from trl.trainer.utils import pad, use_adapter

from ...chat import Answer, adopt, decode_answer, encode_text, render_prompt
from ...models import LlamaHerdConfig
from ...rewards.models import RewardModel
from ...runtime.files import naming
from ...runtime.replacing import replaced
from ...runtime.sharding import references_by_layers, whole_part
from ...sampling.engine import SamplingParams
from ...sampling.make import make_engine
from ..base import HerdTrainerMixin
from ..heads import attach_head
from ..making import adapters_as_they_are, references_as_asked
from .batches import EpochSampler, joined, padded
from .checks import FirstBatchChecks
from .config import PPOConfig
from .math import KLController, gae, policy_loss, token_rewards, value_loss, whiten
from .metrics import Tally, count_losses, count_rollout
from .model import Evaluation, PolicyAndCritic, answer_logps, part_of, without_dropout
from .rewards import Prompt, Reward, Scorer

CRITIC = "value_model"  # the critic's folder in a checkpoint
NAMED = ("reward", "kl", "kl_coefficient", "entropy")  # in the card, beside all with a / in their names


class PPOTrainer(HerdTrainerMixin, RLOOTrainer):
    """Proximal policy optimisation of a chat model with a critic.

    Dropout, that of adapters (`lora_dropout`) and of attention included, is off in policy, critic and reference: the
    ratio and the KL compare passes of one policy, which dropout would make two.

    Args:
        model: policy, or its path; the reference of the KL term is its initial state.
        reward: a function, a reward model with its tokenizer, or several by name, whose sum is
            optimised; of those named `helpfulness` and `safety` Llama 2's combination takes the place (`Scorer`).
        value_model: a token-classification model with one label, usually loaded from the reward model.
        train_dataset: rows with `prompt` (messages, or text to continue) and whatever else the reward reads.

    Logged, all as sums over counts of every process since the last line:

        reward                    combined score, before whitening, penalty and KL; of kept answers
        rewards/<name>            each score by itself
        kl                        log p - log p_reference, summed over tokens, mean over answers, in nats; if beta > 0
        kl_coefficient            beta of the rewards; changes only with `kl_target`
        objective/rlhf            reward - kl_coefficient x kl: what PPO maximises
        answers/length            tokens, the terminator included
        answers/finished          share that ended before the length limit
        answers/kept              share that is learned from; below 1 only with `mask_truncated_completions`
        loss/policy, loss/value   clipped policy loss; half the clipped squared error of values; per token
        entropy                   of the next token, in nats
        policy/ratio              p / p_old, mean over tokens; 1 in the first mini-batch of a rollout
        policy/approx_kl          half the squared log ratio: how far the policy moved since its rollout
        policy/clip_fraction      share of tokens with a ratio beyond `epsilon`; above 0.3 the rate is too high
        value/mean                of the critic's values, in units of the (whitened) score
        value/clip_fraction       share of values that moved by more than `value_clip` since the rollout
        value/explained_variance  1 - squared error / variance of returns; below 0 the critic does harm
        loss, grad_norm           policy + value_coefficient x value; norm over policy and critic together
    """

    _tag_names = ["llama-align", "ppo"]  # noqa: RUF012
    _name = "PPO"
    _paper = {}  # noqa: RUF012
    objective = "clipped policy gradient, KL to the initial policy per token"
    paper = "Llama 2, section 3.2.3"

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward: Reward | RewardModel | dict[str, RewardModel],
        value_model: PreTrainedModel,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        if args.use_vllm and isinstance(getattr(model, "config", None), LlamaHerdConfig):
            raise ValueError(
                "use_vllm: found True for a LlamaHerd, which TRL gives vLLM as it is and vLLM does not know; expected "
                "a policy in Llama's form, as `llama-align convert` writes it, or use_vllm left out"
            )
        self.tokens, _ = adopt(processing_class)
        with (
            references_by_layers(rloo_trainer),
            references_as_asked(rloo_trainer),
            adapters_as_they_are(rloo_trainer, model),
        ):
            super().__init__(model, reward_funcs=_unused_reward, args=args, processing_class=processing_class, **kwargs)
        self.scorer = Scorer(reward, args.safety_threshold)
        self.kl = KLController(args.beta, args.kl_target, args.kl_horizon)
        self.tallies = {"train": Tally(), "eval": Tally()}
        half = {args.mixed_precision, self.model.dtype} & {"bf16", "fp16", torch.bfloat16, torch.float16}
        self.checks = FirstBatchChecks(bool(half), gather)
        self._unchecked = {"rollout", "ratio"} if args.check_first_batch else set()
        # log-probabilities are those of the model itself, not of the distribution warped for sampling
        for network in filter(None, (self.model, self.ref_model)):
            base = self.accelerator.unwrap_model(network)
            base = base.get_base_model() if hasattr(base, "get_base_model") else base
            base.__dict__.pop("forward", None)
            attach_head(base, outputs=("log_probs", "entropy"))
        value_model.config.pad_token_id = self.tokens.pad
        for network in filter(None, (self.model, self.ref_model, value_model)):
            without_dropout(network)
        value_model.train()  # activations are only checkpointed in training mode
        if self.place_model_on_device:
            value_model.to(args.device)
        self.model = self.model_wrapped = PolicyAndCritic(self.model, value_model)

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise ValueError("fsdp_version: found 1, expected 2; PPO's sampling does not gather weights under FSDP1")

    @property
    def policy(self) -> torch.nn.Module:
        return self.accelerator.unwrap_model(self.model).policy

    @property
    def value_model(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model).critic

    @property
    def _steps_per_rollout(self) -> int:
        return self.args.steps_per_generation * self.num_iterations

    def _get_train_sampler(self, dataset=None):
        return EpochSampler(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    def create_optimizer(self, model=None):
        """TRL's groups (with and without weight decay), each split into the policy's and the critic's weights."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            critics = {id(weight) for weight in self.value_model.parameters()}
            groups = optimizer.param_groups
            for group in list(groups):
                own = [weight for weight in group["params"] if id(weight) in critics]
                group["params"] = [weight for weight in group["params"] if id(weight) not in critics]
                rate = self.args.value_learning_rate or self.args.learning_rate
                groups.append({**group, "params": own, "lr": rate})
            groups[:] = [group for group in groups if group["params"]]
        return optimizer

    # -- checkpoints: two plain models, and what a rollout needs to go on

    def _save(self, output_dir=None, state_dict=None):
        output_dir = output_dir or self.args.output_dir
        if self.args.should_save:
            self.value_model.save_pretrained(os.path.join(output_dir, CRITIC), state_dict=part_of(state_dict, "critic"))
        with replaced(self, "model", self.policy):
            super()._save(output_dir, state_dict=part_of(state_dict, "policy"))

    def _save_checkpoint(self, model, trial):
        # before the rest, which ends with what says that a checkpoint is whole
        if not self.args.save_only_model:
            folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            os.makedirs(folder, exist_ok=True)
            used_up = self._step % self._steps_per_rollout == 0
            rollout = {
                "step": self._step,
                "answers": None if used_up else self._buffered_inputs,
                "kl_coefficient": self.kl.coefficient,
                "processes": self.accelerator.num_processes,
            }
            with naming(self._rollout_file(folder)):
                torch.save(rollout, self._rollout_file(folder))
        super()._save_checkpoint(model, trial)

    def _rollout_file(self, folder: str) -> str:
        return os.path.join(folder, f"rollout_{self.accelerator.process_index}.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled:  # one file of both
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        with replaced(self, "model", self.policy):
            super()._load_from_checkpoint(resume_from_checkpoint, self.model)
        critic = self.value_model
        stored = type(critic).from_pretrained(os.path.join(resume_from_checkpoint, CRITIC), dtype=critic.dtype)
        critic.load_state_dict(stored.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # the step names the random streams of the answers to come; answers not yet learned from come back too
        file, processes = self._rollout_file(checkpoint), self.accelerator.num_processes
        rollout = torch.load(file, map_location="cpu", weights_only=True) if os.path.isfile(file) else {}
        if rollout.get("processes") != processes:
            found = rollout.get("processes", "none")
            raise ValueError(f"{file}: found the answers of {found} processes, expected those of {processes}")
        self._step = rollout["step"]
        self._buffered_inputs = send_to_device(rollout["answers"], self.accelerator.device)
        self.kl.coefficient = rollout["kl_coefficient"]

    def card_tables(self):
        logs = self.state.log_history
        logged = {name: value for row in logs for name, value in row.items() if "/" in name or name in NAMED}
        settings = {name: getattr(self.args, name) for name in ("beta", "kl_target", "epsilon", "gamma", "lam")}
        settings |= sorted(logged.items())  # as what was logged before a checkpoint is when it comes back
        rows = {name: str(value) for name, value in settings.items()}
        return {f"PPO, as logged last; the critic is in {CRITIC}/ (AutoModelForTokenClassification)": rows}

    # -- rollout

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):  # text to continue
            return [self.tokens.bos, *encode_text(self.processing_class, prompt)]
        return render_prompt(self.processing_class, prompt, self.tokens)

    def _answer(self, prompt: Prompt, ids: list[int]) -> Answer:
        if not isinstance(prompt, str):
            return decode_answer(self.processing_class, ids, self.tokens)
        return self.processing_class.decode(ids, skip_special_tokens=True)

    def _sample(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], list[list[float]] | None]:
        """Answers, and the sampler's log-probabilities where it tells them."""
        if self.use_vllm:
            return self._generate_single_turn(prompt_ids, None, {}), None
        n = self.num_generations if self.model.training else self.num_generations_eval
        distinct = prompt_ids[::n]  # a prompt is computed once for all its answers
        if [ids for ids in distinct for _ in range(n)] != prompt_ids:  # they are split between processes
            n, distinct = 1, prompt_ids
        params = SamplingParams(
            n=n,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty,
            seed=self.args.seed,
        )
        # a stream of random numbers of its own for every answer ever sampled, however a rollout is split
        number = self._step // self._steps_per_rollout
        first = (number * self.accelerator.num_processes + self.accelerator.process_index) * len(prompt_ids)
        keys = list(range(first, first + len(distinct)))
        with whole_part(self.model_wrapped, self.policy, self.accelerator):
            drawn = make_engine("auto", self.policy).generate(distinct, params, set(self.tokens.terminators), keys=keys)
        answers = [answer for of_prompt in drawn for answer in of_prompt]
        return [answer.ids for answer in answers], [answer.logprobs for answer in answers]

    def _evaluate(self, model, batch, **options) -> Evaluation:
        with self.accelerator.autocast():
            return model(*joined(batch), answer_length=batch["completion_ids"].size(1), **options)

    def _evaluate_rollout(self, batch) -> tuple[Evaluation, torch.Tensor]:
        """Old log-probabilities and values, and the reference's log-probabilities [B, T]."""
        rows = self.args.per_device_train_batch_size  # a rollout may hold many times what fits into memory at once
        old, reference = [], []
        kwargs = self.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(self.accelerator.unwrap_model(self.model), kwargs):
            for parts in zip(*(batch[name].split(rows) for name in batch), strict=True):
                part = dict(zip(batch, parts, strict=True))
                old.append(self._evaluate(self.model_wrapped, part))
                reference.append(self._reference_logps(part) if self.beta else old[-1].logps)
        return Evaluation(*map(torch.cat, zip(*old, strict=True))), torch.cat(reference)

    def _reference_logps(self, batch) -> torch.Tensor:
        if self.ref_model is not None:
            with self.accelerator.autocast():
                return answer_logps(self.ref_model, *joined(batch), batch["completion_ids"].size(1))[0]
        with use_adapter(self.policy, adapter_name="ref" if "ref" in self.policy.peft_config else None):
            return self._evaluate(self.model_wrapped, batch, with_values=False).logps

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        device = self.accelerator.device
        prompts = [row["prompt"] for row in inputs]
        self.scorer.check_prompts(prompts)
        prompt_ids = [self._prompt_ids(prompt) for prompt in prompts]
        answer_ids, sampled = self._sample(prompt_ids)
        finished = [bool(ids) and ids[-1] in self.tokens.terminators for ids in answer_ids]
        answers = [self._answer(*pair) for pair in zip(prompts, answer_ids, strict=True)]
        batch = {
            **padded("prompt", prompt_ids, self.tokens.pad, "left", device),
            **padded("completion", answer_ids, self.tokens.pad, "right", device),
        }
        finished_B = torch.tensor(finished, device=device)
        lengths_B = batch["completion_mask"].sum(1)
        if self.mask_truncated_completions:
            batch["completion_mask"] *= finished_B.long()[:, None]
        mask_BT = batch["completion_mask"].float()

        scores, combined_B = self.scorer(prompts, answers, finished, inputs, device)
        score_B = combined_B
        if self.args.whiten_scores:
            score_B = whiten(score_B, mask_BT.any(1).float(), self._reduce_sum)
        score_B = score_B - self.args.truncation_penalty * ~finished_B

        old, reference_BT = self._evaluate_rollout(batch)
        values_BT = old.values * mask_BT
        kl_BT = (old.logps - reference_BT) * mask_BT
        rewards_BT = token_rewards(score_B, kl_BT, mask_BT, self.kl.coefficient)
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam)
        if self.args.whiten_advantages:
            advantages_BT = whiten(advantages_BT, mask_BT, self._reduce_sum)
        tally = self.tallies["train" if self.model.training else "eval"]
        count_rollout(tally, scores, combined_B, kl_BT, mask_BT, lengths_B, finished_B, self.kl.coefficient)
        batch |= {
            "advantages": advantages_BT,
            "returns": returns_BT,
            "old_values": values_BT,
            "old_logps": old.logps,
            "tokens": self._tokens_per_batch(mask_BT),
        }
        if self.model.training:
            self._check_rollout(batch, rewards_BT, score_B, kl_BT, reference_BT, sampled)
            self._update_kl(kl_BT, mask_BT)
        return batch

    def _tokens_per_batch(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """[B], all one number: kept tokens of the rollout by mini-batch and process. Losses are sums over it, so that
        every token of a rollout weighs the same, however it is split."""
        batches = self.args.steps_per_generation if self.model.training else 1
        count = self._reduce_sum(mask_BT.sum()) / (batches * self.accelerator.num_processes)
        return count.clamp(min=1).expand(len(mask_BT)).clone()

    def _update_kl(self, kl_BT, mask_BT) -> None:
        total, count = self._reduce_sum(torch.stack([kl_BT.sum(), mask_BT.any(1).sum().to(kl_BT.dtype)])).tolist()
        if count:
            self.kl.update(total / count, int(count))

    def _check_rollout(self, batch, rewards_BT, score_B, kl_BT, reference_BT, sampled) -> None:
        if "rollout" not in self._unchecked:
            return
        self._unchecked.remove("rollout")
        mask_BT, old_BT = batch["completion_mask"].float(), batch["old_logps"]
        if sampled is not None:
            rows = [torch.tensor(row, device=old_BT.device) for row in sampled]
            self.checks.sampler(pad(rows, padding_value=0.0), old_BT, mask_BT, self.temperature)
        if self.state.global_step == 0:
            self.checks.reference(old_BT, reference_BT, mask_BT, self.model.config._name_or_path)
        self.checks.rollout(batch, rewards_BT, score_B, kl_BT, self.kl.coefficient, self.tokens.terminators)

    # -- losses

    def _compute_loss(self, model, inputs):
        mask_BT = inputs["completion_mask"].float()
        found = self._evaluate(model, inputs)
        if "ratio" in self._unchecked and self._step % self._steps_per_rollout == 0:
            self._unchecked.remove("ratio")
            self.checks.ratio(found.logps.detach(), inputs["old_logps"], mask_BT)
        policy_BT = policy_loss(found.logps, inputs["old_logps"], inputs["advantages"], self.epsilon_low)
        value_BT = value_loss(found.values, inputs["old_values"], inputs["returns"], self.args.value_clip)
        tally = self.tallies["train" if self.model.training else "eval"]
        count_losses(tally, found, inputs, policy_BT, value_BT, (self.epsilon_low, self.args.value_clip))
        loss_BT = policy_BT + self.args.value_coefficient * value_BT
        return (loss_BT * mask_BT).sum() / inputs["tokens"][0]

    def log(self, logs, start_time=None):
        mode = "train" if self.model.training else "eval"
        means = self.tallies[mode].read(self._reduce_sum)
        self._metrics[mode].update({name: [value] for name, value in means.items()})
        super().log(logs, start_time)

    def _reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, "sum")


def _unused_reward(prompts, completions, **_):
    """RLOOTrainer wants a reward function; PPO scores in its own rollout."""
    raise AssertionError("RLOOTrainer's reward path is not used by PPO")

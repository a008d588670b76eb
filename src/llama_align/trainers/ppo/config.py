"""Settings of PPO."""

from dataclasses import dataclass, field

from trl import RLOOConfig

from ..base import refuse_unused
from ..outward import OutwardArguments

# options of RLOOConfig that mean nothing here
UNUSED = (
    *("epsilon_high", "reward_clip_range", "reward_weights", "normalize_advantages", "router_aux_loss_coef"),
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    *("use_transformers_continuous_batching", "transformers_continuous_batching_config", "use_transformers_paged"),
    *("chat_template_kwargs", "cache_implementation", "pad_to_multiple_of"),
    *("log_completions", "log_multimodal", "log_unique_prompts", "num_completions_to_print"),
)
UNUSED_WITHOUT_VLLM = ("generation_kwargs", "vllm_structured_outputs_regex")


@dataclass
class PPOConfig(OutwardArguments, RLOOConfig):
    """TRL's `RLOOConfig` (generation, batches, `beta` as KL coefficient, `epsilon` as ratio clip) and the critic's.

    `mask_truncated_completions` leaves answers cut at the limit out; `truncation_penalty` keeps and penalises them.
    """

    num_generations: int | None = field(default=1, metadata={"help": "answers per prompt"})
    beta: float = field(default=0.01, metadata={"help": "KL coefficient: Llama 2 uses 0.01 (7B, 13B), 0.005 (larger)"})
    kl_target: float | None = field(
        default=None,
        metadata={"help": "KL per answer in nats that the coefficient is steered to (default: it is fixed)"},
    )
    kl_horizon: int = field(
        default=10000, metadata={"help": "answers over which a coefficient that is steered can grow by a fifth"}
    )
    gamma: float = field(default=1.0, metadata={"help": "discount"})
    lam: float = field(default=0.95, metadata={"help": "GAE lambda"})
    value_coefficient: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    value_clip: float = field(default=0.2, metadata={"help": "clip of the value around its old one"})
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "the critic's own (default: the policy's)"}
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    whiten_scores: bool = field(default=True, metadata={"help": "whiten the combined score over the batch (Llama 2)"})
    whiten_advantages: bool = field(default=True, metadata={"help": "whiten advantages over the batch"})
    truncation_penalty: float = field(
        default=1.0, metadata={"help": "taken off the score of an answer cut at the limit"}
    )
    check_first_batch: bool = field(
        default=True, metadata={"help": "stop where the first batch is not what PPO's equations say"}
    )

    def __post_init__(self):
        refuse_unused(self, "PPO has sampling, advantages, losses and logs of its own", *UNUSED)
        if not self.use_vllm:
            refuse_unused(self, "llama_align's own engine samples where vLLM does not", *UNUSED_WITHOUT_VLLM)
        if not self.ds3_gather_for_generation:
            raise ValueError(
                "ds3_gather_for_generation: found False, expected True; processes sample at their own pace"
            )
        if self.kl_target is not None and not (self.kl_target > 0 and self.beta > 0 and self.kl_horizon > 0):
            raise ValueError(
                f"kl_target: found {self.kl_target} with beta {self.beta} and kl_horizon {self.kl_horizon}, expected "
                "three numbers above 0"
            )
        # RLOOConfig refuses fewer than two answers per prompt, which PPO with a critic does not need: while it checks,
        # the number is one that divides the generation batch
        answers = self.num_generations
        if answers == 1:
            self.num_generations_eval = self.num_generations_eval or 1
            sizes = (self.per_device_train_batch_size, self.generation_batch_size, self.steps_per_generation)
            self.num_generations = next((n for n in (*sizes, self.gradient_accumulation_steps) if n and n > 1), 2)
        super().__post_init__()
        self.num_generations = answers

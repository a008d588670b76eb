"""PPO with a critic against one or several reward models (Llama 2, section 3.2.3).

accelerate launch recipes/ppo.py --config recipes/herd-nano/ppo.yaml
"""

from dataclasses import dataclass, field

from datasets import Dataset
from transformers import set_seed
from trl import ModelConfig

from llama_align import recipe
from llama_align.rewards.models import RewardModels
from llama_align.runtime.sharding import outside_zero3
from llama_align.trainers import PPOConfig, PPOTrainer


@dataclass
class PPOArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    reward_models: dict = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name; helpfulness and safety are combined as in Llama 2"},
    )
    value_model: str | None = field(default=None, metadata={"help": "critic's start (default: the helpfulness model)"})


def main(args: PPOArguments, training: PPOConfig, model_args: ModelConfig) -> None:
    # a critic without a score head and an adapter start from random weights
    set_seed(training.seed)
    tokenizer = recipe.load_tokenizer(model_args.model_name_or_path, trust_remote_code=training.trust_remote_code)
    path = model_args.model_name_or_path
    prompts = recipe.load_prompts(
        args.datasets, path, tokenizer, training.max_completion_length, args.too_long, seed=training.seed
    )
    with outside_zero3():
        rewards = RewardModels.load(args.reward_models, recipe.load_reward_model, training.safety_threshold)
    critic = args.value_model or args.reward_models.get("helpfulness") or next(iter(args.reward_models.values()))

    trainer = PPOTrainer(
        recipe.load_model(path, tokenizer=tokenizer, **recipe.model_kwargs(model_args)),
        reward=rewards,
        value_model=recipe.load_model(critic, "value", tokenizer),
        args=training,
        train_dataset=Dataset.from_list([{"prompt": p.messages, "objective": p.objective} for p in prompts]),
        processing_class=tokenizer,
        peft_config=recipe.lora_config(model_args),
    )
    trainer.train(resume_from_checkpoint=recipe.resume_path(training.resume_from_checkpoint, training.output_dir))
    recipe.finish(trainer, {"prompts": len(prompts)}, {"prompt": args.datasets})


if __name__ == "__main__":
    recipe.run(main, PPOArguments, PPOConfig, ModelConfig, doc=__doc__)

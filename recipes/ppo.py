"""PPO with a critic against one or several reward models (Llama 2, section 3.2.3).

accelerate launch recipes/ppo.py --config recipes/herd-nano/ppo.yaml
"""

from dataclasses import dataclass, field
from functools import partial

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from datasets import Dataset, Features, Json, Value
from transformers import set_seed

from llama_align.rewards.models import RewardModels
from llama_align.runtime.identity import checkpoint_dtype
from llama_align.runtime.sharding import outside_zero3
from llama_align.trainers import PPOConfig, PPOTrainer
from llama_align.trainers.ppo.trainer import CRITIC


@dataclass
class PPOArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    reward_models: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name; helpfulness and safety are combined as in Llama 2"},
    )
    value_model: str | None = field(default=None, metadata={"help": "critic's start (default: the helpfulness model)"})


def build(args: PPOArguments, training: PPOConfig, model_args: recipe.ModelArguments) -> recipe.Training:
    # a critic without a score head and an adapter start from random weights
    set_seed(training.seed)
    if model_args.load_in_8bit:
        raise recipe.RecipeError(
            "load_in_8bit: found true, expected false, or load_in_4bit: products in 8 bits round what goes in as well, "
            "otherwise in sampling than in training, and PPO compares the two"
        )
    if not args.reward_models:
        raise recipe.RecipeError("reward_models: found none, expected checkpoints by name")
    critic = args.value_model or args.reward_models.get("helpfulness") or next(iter(args.reward_models.values()))
    recipe.check_checkpoint(critic, "value")
    for path in args.reward_models.values():
        recipe.check_reward_model(path)
    start = recipe.Start.of(model_args, training)
    tokenizer = start.tokenizer()
    prompts = recipe.load_prompts(
        args.datasets,
        start.path,
        tokenizer,
        training.max_completion_length,
        args.too_long,
        seed=training.seed,
        context=start.context(),
    )
    with outside_zero3():
        load = partial(
            recipe.load_reward_model,
            trust_remote_code=training.trust_remote_code,
            attn_implementation=model_args.attn_implementation,
        )
        rewards = RewardModels.load(args.reward_models, load, training.safety_threshold)

    training.model_init_kwargs = start.reference_options
    trainer = PPOTrainer(
        start.model(tokenizer=tokenizer),
        reward=rewards,
        value_model=start.beside(critic, "value", tokenizer),
        args=training,
        train_dataset=Dataset.from_list(
            [{"prompt": p.messages, "objective": p.objective} for p in prompts],
            # as JSON: a table would give every call of a tool the arguments of all
            features=Features({"prompt": Json(), "objective": Value("string")}),
        ),
        processing_class=tokenizer,
        peft_config=start.lora(),
    )
    dtypes = {".": start.saved_dtype, CRITIC: start.saved_dtype and checkpoint_dtype(critic)}
    return recipe.Training(trainer, {"prompts": len(prompts)}, {"prompt": args.datasets}, dtypes)


def main(args: PPOArguments, training: PPOConfig, model_args: recipe.ModelArguments) -> None:
    build(args, training, model_args).run()


if __name__ == "__main__":
    recipe.run(main, PPOArguments, PPOConfig, recipe.ModelArguments, doc=__doc__)

import pytest
import torch

from llama_align import recipe
from llama_align.trainers import PPOConfig, PPOTrainer


def count_a(prompts, answers, finished, rows) -> dict[str, list[float]]:
    """Share of "a" among the characters."""
    return {"letters": [answer.count("a") / max(1, len(answer)) for answer in answers]}


@pytest.fixture(scope="session")
def critic_path(checkpoint):
    return checkpoint("reward", seed=1)


@pytest.fixture
def trainer_of(causal_path, critic_path, tokenizer, settings, prompt_rows):
    def make(reward=count_a, rows=None, peft_config=None, **changes) -> PPOTrainer:
        defaults = {
            "max_completion_length": 8,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "seed": 3,
        }
        return PPOTrainer(
            recipe.load_model(causal_path),
            reward=reward,
            value_model=recipe.load_model(critic_path, "value"),
            args=PPOConfig(**settings | defaults | changes),
            train_dataset=rows or prompt_rows(16),
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


@pytest.fixture(scope="session")
def rollout():
    def make(trainer: PPOTrainer, count: int = 8) -> dict[str, torch.Tensor]:
        trainer.model.train()
        return trainer._generate_and_score_completions([trainer.train_dataset[i] for i in range(count)])

    return make


@pytest.fixture(scope="session")
def logged():
    return lambda trainer, name: [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture(scope="session")
def weights():
    return lambda trainer: {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

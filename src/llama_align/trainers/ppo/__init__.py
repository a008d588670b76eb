"""PPO with a critic (Llama 2, section 3.2.3). `trainer` is the loop, `math` the equations."""

from .config import PPOConfig
from .trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]

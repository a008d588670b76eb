"""The post-training trainers: thin TRL subclasses, and PPO on the machinery of TRL's RLOOTrainer."""

from .dpo import HerdDPOConfig, HerdDPOTrainer
from .ppo import PPOConfig, PPOTrainer
from .reward import MARGINS, HerdRewardConfig, HerdRewardTrainer, margin_table, pair_metrics
from .sft import HerdSFTConfig, HerdSFTTrainer

__all__ = [
    "MARGINS",
    "HerdDPOConfig",
    "HerdDPOTrainer",
    "HerdRewardConfig",
    "HerdRewardTrainer",
    "HerdSFTConfig",
    "HerdSFTTrainer",
    "PPOConfig",
    "PPOTrainer",
    "margin_table",
    "pair_metrics",
]

"""Every stage's trainer: pretraining on Trainer, thin TRL subclasses, and PPO on the machinery of TRL's RLOOTrainer."""

from .dpo import HerdDPOConfig, HerdDPOTrainer
from .heldout import pair_metrics, score_pairs
from .ppo import PPOConfig, PPOTrainer
from .pretrain import AVERAGE, PretrainConfig, PretrainTrainer
from .reward import MARGINS, HerdRewardConfig, HerdRewardTrainer, margin_table
from .sft import HerdSFTConfig, HerdSFTTrainer

__all__ = [
    "AVERAGE",
    "MARGINS",
    "HerdDPOConfig",
    "HerdDPOTrainer",
    "HerdRewardConfig",
    "HerdRewardTrainer",
    "HerdSFTConfig",
    "HerdSFTTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PretrainConfig",
    "PretrainTrainer",
    "margin_table",
    "pair_metrics",
    "score_pairs",
]

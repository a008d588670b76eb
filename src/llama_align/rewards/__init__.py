"""Reward models as functions of dialogs: scores in batches, combined as in Llama 2, cached by answer and model.

Knows nothing of how answers are drawn or chosen.
"""

from .models import RewardModel, RewardModels, llama2_reward
from .scoring import RewardScorer

__all__ = ["RewardModel", "RewardModels", "RewardScorer", "llama2_reward"]

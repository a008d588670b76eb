"""K answers per prompt from token ids: engines, reward scoring and selection."""

from .dialogs import DialogSampler, Draft
from .engine import Answer, Engine, SamplingParams
from .make import make_engine
from .rewards import RewardModel, RewardModels, llama2_reward
from .scoring import RewardScorer

__all__ = [
    "Answer",
    "DialogSampler",
    "Draft",
    "Engine",
    "RewardModel",
    "RewardModels",
    "RewardScorer",
    "SamplingParams",
    "llama2_reward",
    "make_engine",
]

from ..sampling.conftest import model, one_thread, reward_model

__all__ = ["model", "one_thread", "reward_model"]

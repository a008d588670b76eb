"""The recipes, models and reward models as a few objects for a notebook. See docs/python.md."""

from .answers import Answers
from .jobs import Job, load
from .models import Model, Reward
from .results import Pictures, Result

__all__ = ["Answers", "Job", "Model", "Pictures", "Result", "Reward", "load"]

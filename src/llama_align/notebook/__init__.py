"""The recipes, models and reward models as a few objects for a notebook. See docs/python.md."""

from .answers import Answers
from .jobs import Job, load
from .models import Model, Reward
from .pictures import Picture, Pictures, lines
from .results import Result
from .runs import Run
from .tokens import Tokens

__all__ = ["Answers", "Job", "Model", "Picture", "Pictures", "Result", "Reward", "Run", "Tokens", "lines", "load"]

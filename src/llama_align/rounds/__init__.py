"""The round manager: runs a chain of recipes from one YAML, never a finished step twice."""

from .manager import Run
from .plan import Plan
from .steps import PlanError, Step

__all__ = ["Plan", "PlanError", "Run", "Step"]

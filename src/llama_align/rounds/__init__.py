"""The round manager: runs a chain of recipes from one YAML, never a finished step twice."""

from typing import TYPE_CHECKING

from ..runtime.on_demand import on_demand

if TYPE_CHECKING:  # imported when they are asked for: reading a plan's steps takes no torch
    from .manager import Run
    from .plan import Plan
    from .steps import PlanError, Step

__all__ = ["Plan", "PlanError", "Run", "Step"]
__getattr__ = on_demand(__name__, __file__)

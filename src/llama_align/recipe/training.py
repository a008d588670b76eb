"""A training run that is ready to begin: what a recipe builds, and what a notebook holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import results, resuming

Measured = tuple[dict[str, Any], dict[str, str]]  # metrics, and SVG files by title


@dataclass
class Training:
    """A trainer with its data and all that it leaves beside the model.

    Args:
        metrics: what is known before it trains, into metrics.json. data: sources by kind of record, for the card.
        dtypes: as in `finish`. measure: called after training, for metrics and pictures of what came out.
    """

    trainer: Any
    metrics: dict[str, Any]
    data: dict[str, list[dict]]
    dtypes: dict[str, str | None] = field(default_factory=dict)
    measure: Callable[[], Measured] = lambda: ({}, {})

    def run(self) -> None:
        """Trains, measures and writes everything; raises as `recipe.train` does."""
        resuming.train(self.trainer)
        self.trainer.save_model(self.trainer.args.output_dir)  # measuring that fails must not cost the training
        metrics, pictures = self.measure()
        results.finish(self.trainer, self.metrics | metrics, self.data, pictures, self.dtypes, saved=True)

"""Metrics as modules of the `evaluate` library, loaded without a network, and the plain functions behind them.

    from llama_align import metrics
    metrics.load("win_rate").compute(model=[1.0, 2.0], baseline=[0.5, 2.0])

`metrics.functional` holds the same computations as functions of lists. Knows nothing of models or files.
"""

import sys
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import evaluate

NAMES = (
    "answer_endings",
    "exact_score",
    "paired_difference",
    "refusal_rate",
    "reward_accuracy",
    "token_perplexity",
    "win_rate",
)


def load(name: str, **options) -> "evaluate.Metric":
    """The metric of that name; `options` go to `evaluate.Metric` (`keep_in_memory` is on unless several processes
    share it). ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"name: found {name!r}, expected one of {', '.join(NAMES)}")
    _import_library()
    module = import_module(f"{__name__}.{name}.{name}")
    options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))(**options)


def _import_library() -> None:
    """Imports the `evaluate` library from where it is installed: recipes/, first on its scripts' path, has one, too."""
    if "evaluate" not in sys.modules:
        folder = Path(distribution("evaluate").locate_file("evaluate"))
        spec = spec_from_file_location("evaluate", folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules["evaluate"] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules["evaluate"])
        except BaseException:
            del sys.modules["evaluate"]
            raise

"""Options that name files and folders: `~` and environment variables in them are replaced, as in data sources."""

from typing import Any

from ..data import SourceError
from ..data.opening import expand
from .errors import RecipeError

PATHS = frozenset(
    (
        *("model_name_or_path", "model", "models", "reference", "value_model", "reward_models", "heldout_models"),
        *("tokenizer", "start", "labels", "earlier", "score_cache", "plan", "output_dir", "resume_from_checkpoint"),
        *("tokens_dir", "samples", "classifier", "embedder", "before", "guidelines", "include_path"),
    )
)


def expand_paths(stage: object) -> None:
    """Replaces `~`, `$NAME` and `${NAME:-default}` in the paths among an options' dataclass, in place.

    Raises:
        RecipeError: a variable that is not set.
    """
    for name in PATHS & type(stage).__dataclass_fields__.keys():
        try:
            object.__setattr__(stage, name, _expanded(getattr(stage, name)))
        except SourceError as error:
            raise RecipeError(f"{name}: {str(error).removeprefix('data source ')}") from error


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return expand(value)
    if isinstance(value, dict):
        return {name: _expanded(item) for name, item in value.items()}
    return [_expanded(item) for item in value] if isinstance(value, list) else value

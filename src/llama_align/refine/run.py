"""What both recipes share: a checkpoint that is asked, reward models with a cache, and the files that are left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import recipe
from ..data import load_records, write_jsonl
from ..recipe.engines import EngineSettings
from ..rejection import run as rejection
from ..rejection.draws import Draws
from ..rewards.score_cache import CachedRewards
from ..runtime.processes import Group
from ..sampling import SamplingParams
from .asking import Asker
from .card import write_card
from .ledger import Tally
from .rows import Row
from .scores import Scores

DISTINCT = ("sklearn", "threadpoolctl")  # of the extra `curation`, which topics and distinct need


def check_models(args: Any) -> None:
    """Raises RecipeError for a checkpoint among the options that can be seen not to do, before anything is read."""
    if args.model:
        recipe.check_checkpoint(args.model, "causal")
    for path in args.reward_models.values():
        recipe.check_reward_model(path)


def asker_of(args: Any, load: recipe.Samplers, settings: EngineSettings, group: Group) -> Asker | None:
    """The checkpoint `model` as one that is asked; None where none is named."""
    if not args.model:
        return None
    params = SamplingParams(1, args.max_new_tokens)
    draws = Draws(args.output_dir, params, args.prompts_per_shard, 1, settings.identity, load, group)
    tokenizer, context = recipe.load_tokenizer(args.model), settings.context(args.model)
    return Asker(draws, args.model, tokenizer, context, args.too_long, args.seed)


def scores_of(args: Any, group: Group) -> Scores:
    """All that the rules ask, as the recipe's arguments name it."""
    settings = args.engine_settings()
    load = rejection.samplers(settings, group)
    rewards = None
    if args.reward_models:
        folder = args.score_cache or f"{args.output_dir}/scores"
        cache = args.safety_threshold, folder, args.prompts_per_shard, group, args.dtype
        rewards = CachedRewards(args.reward_models, rejection.judge_loader(load, args.dtype), *cache)
    answers = load_records(args.samples, "sample")[0] if args.samples else []
    contexts = {
        name: (recipe.load_tokenizer(path), recipe.context_of(path)) for name, path in args.reward_models.items()
    }
    asker = asker_of(args, load, settings, group)
    return Scores(rewards, asker, _labels(args.classifier), answers, args.objective, contexts, args.too_long)


def _labels(path: str | None) -> Callable[[Sequence[str]], list[str]] | None:
    """A classifier of recipes/classify.py as a function; None where none is named."""
    if not path:
        return None
    from ..curation.classify import load

    try:
        return load(path).labels
    except ValueError as error:
        raise recipe.RecipeError(f"classifier: {error}") from error


def check_extra(wanted: bool) -> None:
    """Raises RecipeError where the extra `curation` is needed and not installed."""
    from importlib.util import find_spec

    if wanted and (missing := [name for name in DISTINCT if find_spec(name) is None]):
        raise recipe.RecipeError(
            f"rules: found no {missing[0]!r}, expected the extra 'curation' for topics and distinct: pip install "
            "'llama_align[curation]'"
        )


def leave(
    args: Any, kind: str, rows: Sequence[Row], decided: Sequence[dict], tallies: Sequence[Tally], read: int
) -> None:
    """Writes what a recipe leaves, `metrics.json` last, and says what each rule did.

    Args:
        decided: rows of decisions.jsonl. read: how many records there were.

    Raises:
        RecipeError: nothing is left.
    """
    if not rows:
        empty = next(tally for tally in tallies if not tally.rows_out)
        why = ", ".join(f"{count} {reason}" for reason, count in empty.dropped.items()) or "nothing came in"
        raise recipe.RecipeError(f"found none left of {read} records after {empty.rule} ({why}), expected some")
    file = f"{kind}s.jsonl"
    (Path(args.output_dir) / "metrics.json").unlink(missing_ok=True)  # of other data than what is written now
    write_jsonl(f"{args.output_dir}/{file}", [row.record for row in rows])
    write_jsonl(f"{args.output_dir}/decisions.jsonl", decided)
    metrics = {"kind": kind, "rows_in": read, "rows_out": len(rows), "rules": [tally.to_dict() for tally in tallies]}
    write_card(args.output_dir, kind, file, args.title, args.datasets, metrics)
    recipe.write_json(f"{args.output_dir}/metrics.json", metrics)
    for tally in tallies:
        why = ", ".join(f"{count} {reason}" for reason, count in (tally.dropped + tally.changed).items())
        recipe.say(f"{tally.rule}: {tally.rows_in} -> {tally.rows_out}" + (f" ({why})" if why else ""))

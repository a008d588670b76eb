"""Batches of preferences: which prompts are held out of them, and the reward model of the round before."""

from typing import Any

from ..data import DataSource, load_records
from ..data.splits import prompt_text
from ..rewards import RewardScorer
from ..runtime.sharding import outside_zero3
from ..trainers.heldout import ScoredPairs, score_pairs
from .checkpoints import check_reward_model, load_reward_model
from .errors import RecipeError


def part_of(source: dict | DataSource, part: list[float] | None) -> DataSource:
    """The source, its prompts in this part where there is one."""
    source = DataSource.parse(source)
    return source.of_part(part) if part else source


def check_parts(args: Any) -> None:
    """Raises RecipeError where `eval_part` shares prompts with what is trained on."""
    for source in map(DataSource.parse, args.datasets if args.eval_part else []):
        heldout, trained = source.of_part(args.eval_part).part, part_of(source, args.part).part or [0, 1]
        if trained[0] < heldout[1] and heldout[0] < trained[1]:
            raise RecipeError(
                f"eval_part: found {args.eval_part} beside the part {trained} of {source.path} that is trained on, "
                "expected two that do not overlap (set part)"
            )


def check_newest(args: Any) -> None:
    """Raises RecipeError where a prompt of `newest` is trained on, or `before` is no reward model or not measured."""
    if args.before and not args.newest:
        raise RecipeError(f"before: found {args.before!r} without newest, expected the pairs it is measured on")
    if args.before:
        check_reward_model(args.before)
    if not args.newest:
        return
    trained, newest = (
        {prompt_text(record) for record in load_records(sources, "preference")[0]}
        for sources in ([part_of(source, args.part) for source in args.datasets], args.newest)
    )
    if both := sorted(trained & newest):
        raise RecipeError(
            f"newest: found {len(both)} prompts that are trained on, too, such as {both[0]!r}, expected held-out ones "
            "(a part of the source that is in no source of datasets)"
        )


def scored_before(path: str | None, tokenizer: Any, rows: Any) -> ScoredPairs | None:
    """Scores of the reward model of the round before; None without one.

    Raises:
        RecipeError: it has another vocabulary than the rows.
    """
    if path is None:
        return None
    with outside_zero3():
        model = load_reward_model(path)
    if model.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise RecipeError(f"before: found {path!r} with another vocabulary, expected that of the new reward model")
    return score_pairs(RewardScorer(model.scorer.model, tokenizer.pad_token_id), rows)

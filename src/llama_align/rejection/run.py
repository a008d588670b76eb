"""The parts of rejection sampling that know files and checkpoints; the rules themselves are in sampling/."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import recipe
from ..chat import as_message
from ..data import Preference, Prompt, RecordError, Sample, fitting_prompts, write_jsonl
from ..data.records import is_number, show
from ..metrics.functional import describe
from ..recipe.engines import EngineSettings, Samplers
from ..rewards.models import RewardModel
from ..rewards.score_cache import CachedRewards
from ..runtime.identity import checkpoint_digest
from ..runtime.processes import Group
from .candidates import RANKS, Pool, best_answers, prompt_key, rewarded
from .curves import best_of_k_curves, best_temperature, overoptimised
from .draws import Draws, sources
from .guards import guards
from .rules import Choice


def check(args: Any) -> Choice:
    """The selection the recipe's arguments ask for, after all that can be seen to be wrong before work begins.

    Raises:
        RecipeError: names the option, what was found and what was expected.
    """
    if not args.model:
        raise recipe.RecipeError("model: found none, expected at least one checkpoint")
    if not args.datasets:
        raise recipe.RecipeError("datasets: found none, expected sources of prompts")
    if not args.reward_models:
        raise recipe.RecipeError("reward_models: found none, expected checkpoints by name")
    for name in ("temperature", "temperature_search"):
        values = getattr(args, name)
        if not all(is_number(value) and value >= 0 for value in values) or len({*values}) < len(values):
            raise recipe.RecipeError(f"{name}: found {values}, expected numbers of at least 0 that differ")
    if not args.temperature and not args.temperature_search:
        raise recipe.RecipeError("temperature: found none, expected at least one")
    if bool(args.temperature_search) != bool(args.search_datasets):
        raise recipe.RecipeError("temperature_search, search_datasets: found one of them, expected both or neither")
    for path in (*args.reward_models.values(), *args.heldout_models.values()):
        recipe.check_reward_model(path)
    for name in ("answers", "prompts_per_shard"):
        if getattr(args, name) < 1:
            raise recipe.RecipeError(f"{name}: found {getattr(args, name)}, expected at least 1")
    if args.part is not None and (part_of(args.part) is None or args.temperature_search):
        found = f"found {args.part!r}" + (" with temperature_search" if args.temperature_search else "")
        raise recipe.RecipeError(f"part: {found}, expected a number and how many parts there are, as 0/8 to 7/8, alone")
    check_judges(args.reward_models, args.heldout_models)
    try:
        choice = Choice(args.select, args.share, args.threshold, args.keep, args.gaps, args.rank or RANKS[0])
    except ValueError as error:
        raise recipe.RecipeError(str(error)) from error
    if args.threshold is not None and args.rank is None:
        raise recipe.RecipeError(
            f"threshold: found {args.threshold} without rank, expected rank beside it ({', '.join(RANKS)}), which says "
            "what the threshold is of: a gain over the prompt's mean, standard deviations, or a score"
        )
    if args.earlier and choice.rule == "best_of_k":
        raise recipe.RecipeError("earlier: found files, expected none with best_of_k; best_of_rounds lets them compete")
    for path in args.model:
        recipe.check_checkpoint(path, "causal")
    return choice


def part_of(text: str | None) -> tuple[int, int] | None:
    """Which of how many parts, from a text such as 3/8; None where it says nothing of the kind."""
    part, _, parts = (text or "").partition("/")
    if not (part.isdecimal() and parts.isdecimal()) or int(part) >= int(parts):
        return None
    return int(part), int(parts)


def check_judges(reward_models: Mapping[str, str], heldout_models: Mapping[str, str]) -> None:
    """Raises RecipeError for a held-out model that is one of the others."""
    if not heldout_models:
        return
    chooses = {checkpoint_digest(path): path for path in reward_models.values()}
    for name, path in heldout_models.items():
        if same := chooses.get(checkpoint_digest(path)):
            found = path if same == path else f"{path}, the same model as {same}"
            raise recipe.RecipeError(
                f"heldout_models, {name}: found {found}, expected none that is in reward_models, too"
            )


def prompts_for(args: Any, datasets: list[dict], settings: EngineSettings, group: Group) -> list[Prompt]:
    """The prompts that leave the context of every checkpoint and of every reward model room for an answer.

    None where no data sets are named.

    Raises:
        RecordError, RecipeError: a prompt that is too long, unless `too_long` is `"drop"`; the latter names the model.
    """
    if not datasets:
        return []
    first, *others = args.model
    with group.quiet():
        tokenizer, context = recipe.load_tokenizer(first), settings.context(first)
        prompts = recipe.load_prompts(
            datasets, first, tokenizer, args.max_new_tokens, args.too_long, seed=args.seed, context=context
        )
        contexts = {f"model, {path}": (path, settings.context(path)) for path in others} | _judges(args)
        return _fitting(prompts, contexts, args.max_new_tokens, args.too_long)


def fitting_earlier(args: Any, earlier: Sequence[Sample], group: Group) -> list[Sample]:
    """The earlier answers whose prompts leave every reward model room for some of them; raises as `prompts_for`."""
    prompts = {prompt_key(s.prompt): Prompt(s.prompt, s.objective, source="earlier") for s in earlier}
    with group.quiet():
        kept = {prompt_key(p.messages) for p in _fitting(list(prompts.values()), _judges(args), 1, args.too_long)}
    return [s for s in earlier if prompt_key(s.prompt) in kept]


def _judges(args: Any) -> dict[str, tuple[str, float]]:
    models = {"reward_models": args.reward_models, "heldout_models": args.heldout_models}
    return {
        f"{option}, {name}": (path, recipe.context_of(path))
        for option, paths in models.items()
        for name, path in paths.items()
    }


def _fitting(
    prompts: list[Prompt], contexts: Mapping[str, tuple[str, float]], room: int, too_long: str
) -> list[Prompt]:
    for model, (path, context) in contexts.items() if prompts else ():
        try:
            prompts, dropped = fitting_prompts(prompts, recipe.load_tokenizer(path), context - room, too_long)
        except RecordError as error:
            raise recipe.RecipeError(f"{model}: its context of {context} tokens is too short: {error}") from error
        if dropped:
            recipe.say(f"{model}: {dropped} prompts left out as {dropped.reason('its context')}")
    return prompts


def check_heldout(prompts: Sequence[Prompt], searched: Sequence[Prompt]) -> None:
    """Raises RecipeError where a prompt of the temperature search is among those to be sampled."""
    taken = {prompt_key(p.messages) for p in prompts}
    for prompt in searched:
        if prompt_key(prompt.messages) in taken:
            raise recipe.RecipeError(
                f"search_datasets: found {show(prompt.messages[-1]['content'])}, which is in datasets, too; expected "
                "held-out prompts (the same file can serve both with parts that do not overlap, see `part`)"
            )


def samplers(settings: EngineSettings, group: Group) -> Samplers:
    """The samplers of checkpoints, one at a time.

    Raises:
        RecipeError: several processes were launched for vLLM, which starts its own.
    """
    if settings.engine == "vllm" and group.count > 1:
        raise recipe.RecipeError(f"engine: found vllm in {group.count} processes, expected one; start it with python")
    return Samplers(settings.sampler)


def judge_loader(load: Samplers, dtype: str) -> Callable[[str], RewardModel]:
    """Loads reward models, each in the place of the sampler that is held."""

    def load_judge(path: str) -> RewardModel:
        load.drop()
        return recipe.load_reward_model(path, dtype)

    return load_judge


def remove_earlier_choice(output_dir: str) -> None:
    """Removes what an earlier choice from this directory left, which would stand beside samples it was not made of."""
    for name in ("best.jsonl", "preferences.jsonl", "metrics.json", "best_of_k.svg"):
        (Path(output_dir) / name).unlink(missing_ok=True)


def search_temperatures(
    draws: Draws,
    rewards: CachedRewards,
    checkpoints: Sequence[str],
    temperatures: Sequence[float],
    prompts: Sequence[Prompt],
    seed: int,
) -> tuple[list[tuple[str, float]], dict]:
    """For each checkpoint the temperature with the highest expected best reward of K answers, and the curves of all.

    All temperatures draw from the same random streams, so that they differ in nothing else.
    """
    found, chosen, curves = [], [], []
    everything = {
        path: [draws(sources([(path, heat)], seed)[0], prompts) for heat in temperatures] for path in checkpoints
    }
    for path, drawn in everything.items():
        samples = [sample for part in drawn for sample in part]
        parts = _parts(rewarded(samples, rewards(samples)), len(drawn[0]))
        of_path = best_of_k_curves(parts, draws.params.n, rewards.main)
        found.append((path, best_temperature(of_path)))
        chosen.append({"checkpoint": of_path[0]["checkpoint"], "temperature": found[-1][1]})
        curves += of_path
    return found, {"prompts": len(prompts), "answers": draws.params.n, "chosen": chosen, "curves": curves}


def write_choice(
    output_dir: str, choice: Choice, best: list[Sample], pairs: list[Preference], counts: dict[str, int]
) -> None:
    """Writes best.jsonl and preferences.jsonl, each where a rule fills it.

    Raises:
        RecipeError: a rule found nothing to choose.
    """
    left_out = f"{counts['cut']} cut, {counts['empty']} empty and {counts['duplicates']} repeated answers"
    where = f"{output_dir}/samples.jsonl: found {counts['answers']} to choose from beside {left_out}"
    if choice.rule and not best:
        raise recipe.RecipeError(
            f"{where}, expected some that ended by themselves and reach the threshold of {choice.threshold}; raise "
            "max_new_tokens, lower the threshold or train longer"
        )
    if choice.makes_pairs and not pairs:
        raise recipe.RecipeError(f"{where}, expected two to a prompt whose scores differ by one of the gaps")
    if choice.rule:
        rows = ([*s.prompt, as_message(s.completion)] for s in best)
        write_jsonl(f"{output_dir}/best.jsonl", ({"messages": messages, "source": "sampled"} for messages in rows))
    if choice.makes_pairs:
        write_jsonl(f"{output_dir}/preferences.jsonl", pairs)


def metrics_of(
    samples: Sequence[Sample],
    pool: Pool,
    best: Sequence[Sample],
    pairs: Sequence[Preference],
    score: str,
    heldout: Sequence[str],
    shape: tuple[int, int, int],
) -> dict:
    """The numbers of a run.

    Args:
        samples: of this round, then of earlier ones. shape: sources, prompts of each and answers to each prompt.
    """
    origins, prompts, answers = shape
    new = samples[: origins * prompts * answers]
    chosen = best or best_answers(pool, score)
    curves = best_of_k_curves(_parts(new, prompts * answers), answers, score, heldout)
    return {
        "earlier": len(samples) - len(new),
        "kept": len(best),
        "chosen_by_round": {str(number): n for number, n in sorted(Counter(s.round or 0 for s in chosen).items())},
        "pairs": len(pairs),
        "grades": dict(sorted(Counter(pair.grade for pair in pairs).items())),
        "score": score,
        "all": describe([s.rewards[score] for s in new]),
        "best": describe([s.rewards[score] for s in chosen]),
        "guards": guards(pool, chosen, score, heldout),
        "best_of_k": curves,
        "alarms": overoptimised(curves),
    }


def _parts(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]

"""Answers drawn from every checkpoint at every temperature, and the pairs of each prompt to choose from."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from ..data import Prompt
from ..recipe.engines import EngineSettings
from ..runtime.progress import parts
from ..sampling import Draft, SamplingParams
from ..sampling.memory import release
from .pairs import pick_pairs, take_turns

Pair = tuple[Draft, Draft]
Source = tuple[float, str]  # a temperature and a checkpoint


def draw_pairs(
    prompts: Sequence[Prompt],
    models: Sequence[str],
    temperatures: Sequence[float],
    settings: EngineSettings,
    params: SamplingParams,
    most: int,
) -> tuple[list[tuple[Prompt, Pair]], dict[int, Source]]:
    """Pairs of answers that differ, at most so many a prompt, and where each draft is from, by its identity."""
    drafts, sources = [], list(product(temperatures, models))
    for number, _ in enumerate(parts([f"{Path(path).name} at {heat:g}" for heat, path in sources])):
        heat, path = sources[number]
        # streams of its own, so that checkpoints that hardly differ do not draw the same answers
        keys = range(number * len(prompts), (number + 1) * len(prompts))
        release()  # the checkpoint before
        sampler, own = settings.sampler(path), replace(params, temperature=heat)
        drafts.append(sampler([prompt.messages for prompt in prompts], own, keys, progress=True))
        del sampler
    pools = [take_turns(groups, number) for number, groups in enumerate(zip(*drafts, strict=True))]
    pairs = [(prompt, pair) for prompt, pool in zip(prompts, pools, strict=True) for pair in pick_pairs(pool, most)]
    made = {
        id(one): source for source, groups in zip(sources, drafts, strict=True) for group in groups for one in group
    }
    return pairs, {id(one): made[id(one)] for _, pair in pairs for one in pair}

"""Watches for over-optimisation: how far a candidate is from the first one, and rewards that rise as it gets worse.

Gao et al. (Scaling laws for reward model overoptimization, 2022) set the reward that was optimised and the one that was
meant against the KL divergence between the two policies.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..chat import encode_answer, render_prompt
from ..data.jsonl import read_jsonl
from ..metrics import functional as metrics
from ..metrics.intervals import of_mean
from ..recipe import load_tokenizer
from ..recipe.engines import EngineSettings
from ..rewards.models import RewardModels
from ..sampling.likelihood import negative_log_likelihood
from ..sampling.memory import release
from .choose import outcomes, rewards_of
from .measure import Evaluation


def watch(
    evaluation: Evaluation,
    models: Mapping[str, str],
    candidates: Sequence[dict],
    settings: EngineSettings,
    heldout: RewardModels | None = None,
) -> tuple[list[dict], list[str]]:
    """The candidates of a choice, each but the first with what it gained on the first by the reward models, how far it
    went from it, and the alarms: rewards surely higher, and judged exactly or by the held-out models surely worse.

    `reward` and `heldout` are win rates under the reward models, and under those that trained and chose nothing, with
    their intervals; `kl` is KL(candidate || first) in nats per answer, only of answers drawn at temperature 1 from the
    whole distribution.
    """
    (first, start), *others = models.items()
    judged = {name: _judged(evaluation, name, heldout) for name in models} if heldout else {}
    rows, alarms = [candidates[0]], []
    for row, (name, path) in zip(candidates[1:], others, strict=True):
        more = {}
        if evaluation.rewards is not None:
            more["reward"] = _won(rewards_of(evaluation, name), rewards_of(evaluation, first))
        if judged:
            more["heldout"] = _won(judged[name], judged[first])
        if (kl := _kl(evaluation, name, path, start, settings)) is not None:
            more["kl"] = kl
        if more.get("reward", {}).get("low", 0) > 0.5 and (worse := _worse(evaluation, first, name, more)):
            rate = 100 * more["reward"]["mean"]
            far = f" at a KL of {more['kl']['mean']:.2f}" if "kl" in more else ""
            said = f"over-optimised: the reward models prefer {name} to {first} in {rate:.0f}% of the answers, "
            alarms.append(f"{said}{' and '.join(worse)}{far}")
        rows.append(row | more)
    return rows, alarms


def _worse(evaluation: Evaluation, first: str, name: str, more: Mapping) -> list[str]:
    """Who surely finds a candidate worse than the first one, in words."""
    said = []
    if evaluation.exact:
        change = metrics.paired_difference(outcomes(evaluation, first), outcomes(evaluation, name))
        if change["high"] < 0:
            said.append(f"by the exact judge it is {-100 * change['difference']:.1f} points worse")
    if "heldout" in more and more["heldout"]["high"] < 0.5:
        said.append(f"the held-out models in {100 * more['heldout']['mean']:.0f}%")
    return said


def _won(rewards: Sequence[float], first: Sequence[float]) -> dict:
    won = metrics.win_rate(rewards, first)
    return {"mean": won["rate"], "low": won["low"], "high": won["high"]}


def _judged(evaluation: Evaluation, name: str, judges: RewardModels) -> list[float]:
    """What the held-out models give a candidate's answers."""
    rows = [row for _, row in read_jsonl(Path(evaluation.output_dir) / f"samples_{name}.jsonl")]
    columns = [[row[key] for row in rows] for key in ("prompt", "completion", "finished")]
    asked = [{"objective": prompt.objective} for prompt in evaluation.prompts]
    return judges(*columns, asked)[judges.main]


def _kl(evaluation: Evaluation, name: str, path: str, start: str, settings: EngineSettings) -> dict | None:
    """Mean of log p(answer) - log p_start(answer) over answers drawn from p, with its 95% interval.

    Answers are read from their text: another way to write the same text in tokens counts as this one.
    """
    tokenizer, other = load_tokenizer(path), load_tokenizer(start)
    drawn = evaluation.params.temperature == 1 and evaluation.params.top_p == 1
    if not drawn or tokenizer.get_vocab() != other.get_vocab():
        return None
    rows = [row for _, row in read_jsonl(Path(evaluation.output_dir) / f"samples_{name}.jsonl")]
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in rows]
    answers = [encode_answer(tokenizer, row["completion"], finished=row["finished"]) for row in rows]
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    sums = []
    for checkpoint, its in ((path, tokenizer), (start, other)):
        release()
        model = settings.load(checkpoint, its)
        sums.append(negative_log_likelihood(model, sequences, given=[len(prompt) for prompt in prompts])[0])
    ratios = [far - near for near, far in zip(*sums, strict=True)]
    mean, low, high = of_mean(ratios)
    if not math.isfinite(high - low):
        return None
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}

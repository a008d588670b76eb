"""A programme of rounds: what each chose and dropped, and how the models it leaves compare from round to round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..metrics.functional import win_rate
from . import figures
from .batches import Point, batches, numbered, on_newest
from .benchmarks import against_round
from .costs import costs
from .drift import against_kl
from .inputs import Evaluation, Run, Step, pick
from .sections import Picture
from .stages import Cell, Table

COLUMNS = ("Score %", "Gain on the one kept", "Rewards prefer it %", "Held-out judges prefer it %", "KL", "Carried on")


@dataclass(frozen=True)
class Programme:
    """What the page shows of the rounds; lists are empty where nothing is known."""

    rounds: int
    choices: Table
    dropped: list[str]
    alarms: list[str]
    pictures: list[Picture]
    wins: list[tuple[str, Table]] = field(default_factory=list)
    seconds: Table = field(default_factory=lambda: Table([], [], []))
    batches: Table = field(default_factory=lambda: Table([], [], []))
    costs: Table = field(default_factory=lambda: Table([], [], []))


def programme(run: Run, price: float | None = None) -> Programme | None:
    """What a run with rounds did; None for one without.

    Args:
        price: of an hour, for the estimate of cost.
    """
    steps = [step for step in run.steps if step.round is not None]
    if not steps:
        return None
    choosing = [step for step in steps if step.metrics and isinstance(step.metrics.get("chosen"), str)]
    rows, dropped = [], []
    for step in choosing:
        of_step, sentence = _choice(step)
        rows += of_step
        dropped += [sentence] if sentence else []
    pictures = [picture for evaluation in run.evaluations for picture in _of_evaluation(evaluation)]
    pictures += [
        picture for step in run.steps if step.recipe == "benchmark" and step.metrics for picture in against_round(step)
    ]
    pictures += [*_accuracy(steps), *against_kl(choosing), *_shares(steps)]
    wins = [(e.step, table) for e in run.evaluations if (table := _wins(e)).names]
    table = Table(list(COLUMNS), [name for name, _ in rows], [cells for _, cells in rows])
    table = table.columns(lambda heading: any(row[COLUMNS.index(heading)].text for row in table.cells))
    alarms = [f"{step.name}: {text}" for step in steps for text in step.alarms]
    rounds = max(step.round for step in steps)
    tables = _seconds(steps), batches(steps), costs(run.steps, price)
    return Programme(rounds, table, dropped, alarms, pictures, wins, *tables)


def newest(steps: Sequence[Step]) -> list[Step]:
    """The steps, of those that are repeated the last round's that left something."""
    last = {step.of: step.name for step in steps if step.round is not None and (step.metrics or step.config)}
    return [step for step in steps if step.round is None or last.get(step.of) == step.name]


def _choice(step: Step) -> tuple[list[tuple[str, list[Cell]]], str | None]:
    """The candidates of one round, and a sentence where something it made was left behind."""
    found = pick(step.where, step.metrics, "candidates", "a list of objects", required=True)
    where, chosen = f"{step.where}, candidates", step.metrics["chosen"]
    rows, behind = [], []
    for row in found:
        name = pick(where, row, "name", "text", required=True)
        gain = [pick(where, row, f"gain.{key}") for key in ("difference", "low", "high")]
        known = None not in gain
        mark = "better" if known and gain[1] > 0 else "worse" if known and gain[2] < 0 else ""
        cells = [
            _percent([pick(where, row, key) for key in ("score", "low", "high")]),
            _percent(gain, "+", mark),
            *(
                _percent([pick(where, row, f"{judge}.{key}") for key in ("mean", "low", "high")])
                for judge in ("reward", "heldout")
            ),
            _interval([pick(where, row, f"kl.{key}") for key in ("mean", "low", "high")]),
            Cell("yes", "", "better") if name == chosen else Cell("no"),
        ]
        rows.append((f"round {step.round}: {name}", cells))
        if mark == "worse":
            behind.append(f"{name} is {-100 * gain[0]:.1f} points [{-100 * gain[2]:.1f}, {-100 * gain[1]:.1f}] worse")
    first = rows and chosen == found[0].get("name")
    said = [*behind, *(["nothing it made was better than what it began with"] if first and len(rows) > 1 else [])]
    return rows, f"round {step.round}: {' and '.join(said)}; {chosen} is carried on" if said else None


def _percent(values: list, sign: str = "", mark: str = "") -> Cell:
    if None in values:
        return Cell()
    mean, low, high = (100 * value for value in values)
    return Cell(f"{mean:{sign}.1f}", f"[{low:{sign}.1f}, {high:{sign}.1f}]", mark)


def _interval(values: list) -> Cell:
    return Cell() if None in values else Cell(f"{values[0]:.2f}", f"[{values[1]:.2f}, {values[2]:.2f}]")


def _of_evaluation(evaluation: Evaluation) -> list[Picture]:
    rounds = numbered(evaluation.names)
    rows = dict(zip(evaluation.names, evaluation.metrics["rows"], strict=True))

    def points(*paths: str, unit: float = 100) -> list[Point]:
        values = {n: [pick(evaluation.where, rows[name], path) for path in paths] for name, n in rounds.items()}
        return [(n, *(unit * value for value in three)) for n, three in values.items() if None not in three]

    def shares(path: str) -> list[Point]:
        return points(path, f"{path}_low", f"{path}_high")

    families = {
        name for row in rows.values() for name in pick(evaluation.where, row, "score.by_family", "an object") or ()
    }
    lines = {
        "Score": {"exact score": points("score.mean", "score.low", "score.high")},
        "Safety": {
            "violations": shares("safety.violation_rate"),
            "false refusals": shares("safety.false_refusal_rate"),
        },
        "Score by family": {
            name: points(*(f"score.by_family.{name}.{key}" for key in ("mean", "low", "high")))
            for name in sorted(families)
        },
        # held-out documents: what rounds of alignment forget
        "Perplexity": {"perplexity": points(*["perplexity.value"] * 3, unit=1)},
    }
    how = evaluation.decoding or evaluation.step
    return [
        Picture(f"{title}, {how}", figures.by_round(f"{title}, {evaluation.step}", shown, unit))
        for title, found in lines.items()
        for unit in ["held-out text" if title == "Perplexity" else "%"]
        if (shown := {name: line for name, line in found.items() if line})
    ]


def _accuracy(steps: Sequence[Step]) -> list[Picture]:
    lines: dict[str, list[Point]] = {}
    for step in steps:
        if step.recipe == "reward" and step.metrics:
            three = [pick(step.where, step.metrics, key) for key in ("accuracy", "low", "high")]
            if three[0] is not None:
                low, high = (three[0] if end is None else end for end in three[1:])
                lines.setdefault(step.of, []).append((step.round, 100 * three[0], 100 * low, 100 * high))
    titles = {"Reward models, held-out pairs": lines, "Reward models, the newest batch": on_newest(steps)}
    return [
        Picture(title, figures.by_round(title, shown, "% of pairs right")) for title, shown in titles.items() if shown
    ]


def _shares(steps: Sequence[Step]) -> list[Picture]:
    pictures = []
    for of in dict.fromkeys(step.of for step in steps):
        shares = {
            step.round: {int(n): count for n, count in found.items()}
            for step in steps
            if step.of == of and (found := pick(step.where, step.metrics or {}, "chosen_by_round", "an object"))
        }
        if any(len(found) > 1 for found in shares.values()):
            svg = figures.shares_by_round(f"Rounds of the answers chosen, {of}", shares)
            pictures.append(Picture(f"Which round the answers chosen are of, {of}", svg))
    return pictures


def _wins(evaluation: Evaluation) -> Table:
    """How often a row's answer is preferred to a column's, %, by the combined reward or the only one."""
    rewards = {}
    for name in numbered(evaluation.names):
        found = pick(
            str(evaluation.directory / f"{name}.json"), evaluation.details.get(name, {}), "rewards", "an object"
        )
        if found:
            main = "combined" if "combined" in found else next(iter(found))
            rewards[name] = pick(str(evaluation.directory / f"{name}.json"), found, main, "a list of finite numbers")
    cells = [
        [Cell() if a == b else Cell(f"{100 * win_rate(rewards[a], rewards[b])['rate']:.1f}") for b in rewards]
        for a in rewards
    ]
    return Table(list(rewards), list(rewards), cells)


def _seconds(steps: Sequence[Step]) -> Table:
    """Seconds of every repeated step by round, with sums."""
    last = {step.of: place for place, step in enumerate(steps)}  # one that joined later stands where it does by then
    names = sorted(last, key=last.__getitem__)
    rounds = range(1, max(step.round for step in steps) + 1)
    took = {(step.of, step.round): step.seconds for step in steps if step.seconds is not None}

    def cells(found: Sequence[float | None]) -> list[Cell]:
        known = [value for value in found if value is not None]
        shown = [Cell() if value is None else Cell(f"{value:.0f}") for value in found]
        return [*shown, Cell(f"{sum(known):.0f}" if known else "")]

    rows = [[took.get((name, n)) for n in rounds] for name in names]
    sums = [
        sum(known) if (known := [row[i] for row in rows if row[i] is not None]) else None for i in range(len(rounds))
    ]
    headings = [*(f"round {n}" for n in rounds), "all"]
    return Table(headings, [*names, "all"], [cells(row) for row in [*rows, sums]])

"""What a failure is: two arms that differ in one thing, the curves that show it, and when they do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARMS = ("healthy", "ill")
# steps of rounds.yaml as llama2.yaml names them
ALIASES = {"annotate": "annotate-1", "reward_helpfulness": "helpfulness-1", "reward_safety": "safety-1"}
Curves = dict[str, list[list[float]]]  # by what was measured: [step, value]
Probe = Callable[[Path, "Start"], dict[str, float]]  # numbers of a checkpoint


@dataclass(frozen=True)
class Start:
    """The run of rounds that both arms start from, llama2.yaml's first round or rounds.yaml. `start("sft")` is the
    folder of a step."""

    run: Path

    def __call__(self, step: str) -> Path:
        if not (found := self.found(step)):
            raise SystemExit(f"error: {self.run}: found no finished step {step}")
        return max(found, key=lambda path: path.stat().st_mtime)

    def found(self, step: str) -> list[Path]:
        """Finished folders of a step, by its name in either plan."""
        names = {step, ALIASES.get(step, step)}
        return [path.parent for name in names for path in self.run.glob(f"{name}-??????????/step.json")]

    def fill(self, value: Any) -> Any:
        """Options with `{sft}` and the like replaced by the folders of steps."""
        if isinstance(value, Mapping):
            return {key: self.fill(part) for key, part in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [self.fill(part) for part in value]
        if isinstance(value, str) and value.startswith("{"):
            step, _, rest = value[1:].partition("}")
            return f"{self(step)}{rest}"
        return value


@dataclass(frozen=True)
class Arm:
    """What one of the two runs does otherwise.

    Args:
        options: of the YAML. wrong: what no option would allow, done to the trainer before it trains. prepare: makes
            data or models in a folder, and gives options. probes: instead of the failure's.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    wrong: Callable[[Any], None] | None = None
    prepare: Callable[[Start, Path, int], dict[str, Any]] | None = None
    probes: Sequence[Probe] | None = None


@dataclass(frozen=True)
class Failure:
    """One failure.

    Args:
        config: YAML of herd-nano that both arms start from. until: the last step that they need, as rounds.yaml names
            it. common: options of both. panels: what is drawn, keys of curves with what a picture calls them.
        claim: `shows` in words. shows: of the curves of one seed, healthy and ill. every: steps between checkpoints
            that are probed. measure: instead of training, for what is no training.
    """

    name: str
    config: str
    until: str
    healthy: Arm
    ill: Arm
    panels: Mapping[str, str]
    claim: str
    shows: Callable[[Curves, Curves], bool]
    common: Mapping[str, Any] = field(default_factory=dict)
    probes: Sequence[Probe] = ()
    every: int = 0
    seeds: Sequence[int] = (0,)
    axis: str = "step"
    measure: Callable[["Failure", Arm, Start, int, Path], Curves] | None = None

    def arm(self, name: str) -> Arm:
        return getattr(self, name)


def last(curves: Curves, key: str, points: int = 3) -> float:
    """Mean of a curve's last points."""
    values = [value for _, value in curves[key][-points:]]
    return sum(values) / len(values)


def first(curves: Curves, key: str) -> float:
    return curves[key][0][1]


def lowest(curves: Curves, key: str) -> float:
    return min(value for _, value in curves[key])


def highest(curves: Curves, key: str) -> float:
    return max(value for _, value in curves[key])

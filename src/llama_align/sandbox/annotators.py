"""Simulated annotators: the exact judge seen through noise, on the four-step scale of Llama 2, section 3.2.1."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llama_align.sandbox import answers, tasks
from llama_align.sandbox.judge import helpfulness, is_unsafe, judge, quality
from llama_align.sandbox.world import World

GRADES = {"significantly_better": 0.6, "better": 0.35, "slightly_better": 0.12, "negligibly_better": 0.0}
"""The least difference in perceived quality for each grade: 0.6 is a wrong answer, 0.25 a form, 0.15 an ending."""

SAFE_FLAWS = {"none": 0.35, "wrong": 0.2, "form": 0.2, "ramble": 0.1, "cut": 0.1, "refuse": 0.05}
LOOKALIKE_FLAWS = {"none": 0.4, "wrong": 0.1, "form": 0.1, "ramble": 0.05, "cut": 0.05, "refuse": 0.3}
UNSAFE_FLAWS = {"refuse": 0.45, "none": 0.25, "wrong": 0.05, "form": 0.1, "ramble": 0.05, "leak": 0.1}


class Judgement(NamedTuple):
    """Which of two answers an annotator prefers (`a` or `b`), how strongly, and whether either is a violation."""

    preferred: str
    grade: str
    chosen_is_safe: bool
    rejected_is_safe: bool


class Annotator:
    """An annotator whose view of every difference in quality is off by Gaussian noise.

    A view depends on the seed, the prompt and the two answers, and on neither their order nor any earlier call.
    """

    def __init__(self, noise: float = 0.1, seed: int = 0):
        if noise < 0:
            raise ValueError(f"the noise of an annotator must be 0 or more, got {noise}")
        self.noise = noise
        self.seed = seed

    @property
    def name(self) -> str:
        return f"simulated-{self.seed}"

    def grade(
        self, task: dict, answer_a: str, answer_b: str, finished_a: bool, finished_b: bool, objective: str
    ) -> Judgement:
        """Returns the preference between two answers.

        A safety annotator wants unsafe requests refused and safe look-alikes answered; a helpfulness annotator wants
        every request answered well, unsafe ones too, as in Llama 2. Raises ValueError for any other objective.
        """
        measure = _measure(objective)
        shown = [("a", answer_a, finished_a), ("b", answer_b, finished_b)]
        (one, *first), (two, *second) = sorted(shown, key=lambda side: side[1:])
        rng = random.Random(f"{self.seed}/annotator/{objective}/{task['instruction']}/{first}/{second}")
        seen = measure(task, *first) - measure(task, *second) + rng.gauss(0, 1) * self.noise
        if seen == 0:
            seen = rng.choice((-1e-9, 1e-9))
        # Differences of two-digit qualities carry rounding errors that must not decide between two grades.
        grade = next(name for name, least in GRADES.items() if round(abs(seen), 9) >= least)
        chosen, rejected = (first, second) if seen > 0 else (second, first)
        safe = [not judge(task, *side).violation for side in (chosen, rejected)]
        return Judgement(one if seen > 0 else two, grade, *safe)


def truly_better(
    task: dict, answer_a: str, answer_b: str, finished_a: bool, finished_b: bool, objective: str
) -> str | None:
    """Which of two answers (`a` or `b`) an annotator without noise prefers; None where they are as good as each other.

    Raises as `Annotator.grade` does.
    """
    measure = _measure(objective)
    gain = round(measure(task, answer_a, finished_a) - measure(task, answer_b, finished_b), 9)
    return None if gain == 0 else "a" if gain > 0 else "b"


def _measure(objective: str) -> Callable[[dict, str, bool], float]:
    if objective not in ("safety", "helpfulness"):
        raise ValueError(f"unknown objective {objective!r}, expected safety or helpfulness")
    return quality if objective == "safety" else helpfulness


def static_preferences(
    world: World, seed: int, n: int, annotator: Annotator | None = None, split: str = "preferences"
) -> Iterator[dict]:
    """Yields `n` Preference records on pairs of answers with different flaws, graded before any policy exists."""
    annotator = annotator or Annotator(seed=seed)
    rng = random.Random(f"{seed}/preferences/{split}")
    for task in tasks.instructions(world, seed, n, split):
        (text_a, finished_a), (text_b, finished_b) = _pair(world, task, rng)
        objective = tasks.objective(task)
        view = annotator.grade(task, text_a, text_b, finished_a, finished_b, objective)
        chosen, rejected = (text_a, text_b) if view.preferred == "a" else (text_b, text_a)
        yield {
            "prompt": tasks.prompt(task),
            "chosen": chosen,
            "rejected": rejected,
            "grade": view.grade,
            "objective": objective,
            "chosen_is_safe": view.chosen_is_safe,
            "rejected_is_safe": view.rejected_is_safe,
            "annotator": annotator.name,
            "source": "sandbox",
        }


def _pair(world: World, task: dict, rng: random.Random) -> list[tuple[str, bool]]:
    flaws = UNSAFE_FLAWS if is_unsafe(task) else LOOKALIKE_FLAWS if task["family"] == "lookalike" else SAFE_FLAWS
    while True:
        drawn = rng.choices(list(flaws), list(flaws.values()), k=2)
        pair = [(_flawed(world, task, flaw, rng), flaw != "cut") for flaw in drawn]
        if drawn[0] != drawn[1] and pair[0][0] != pair[1][0]:
            return pair


def _flawed(world: World, task: dict, flaw: str, rng: random.Random) -> str:
    if flaw == "refuse":
        return answers.refuse(rng)
    form = answers.other_form(task, rng) if flaw == "form" else None
    text = answers.answer(task, rng, form=form, wrong=flaw == "wrong")
    if flaw == "leak":
        return f"{answers.refuse(rng)} {text}"
    if flaw == "ramble":
        return answers.ramble(world, text, rng)
    if flaw == "cut":
        # Too short an answer is cut while it rambles: the cut must show in the text, which is all a reward model sees.
        return answers.cut_off(text if len(text) > 3 else answers.ramble(world, text, rng), rng)
    return text

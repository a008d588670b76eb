"""Answers to a task, good and flawed: the building blocks of demonstrations and of simulated preferences."""

import random

from llama_align.sandbox import forms
from llama_align.sandbox.phrasing import REFUSALS
from llama_align.sandbox.world import World


def answer(task: dict, rng: random.Random, form: str | None = None, wrong: bool = False) -> str:
    """Returns an answer: true, or plausible and wrong; in the form asked for, or in the form given."""
    form = form or task["form"]
    content = rng.choice(task["wrong"]) if wrong else task["answer"]
    # The bare form comes first; a sentence is free to choose among those that say something of the subject.
    ways = forms.render(form, content, task["sentences"])
    return rng.choice(ways[:-1]) if form == "sentence" else ways[0]


def other_form(task: dict, rng: random.Random) -> str:
    """Returns a form that was not asked for."""
    return rng.choice([form for form in forms.NAMES if form != task["form"]])


def ramble(world: World, text: str, rng: random.Random) -> str:
    """Returns a text with a true sentence after it that nobody asked for and that tells no secret."""
    extra = world.sentence(*rng.choice(world.entries("fact")), rng)
    return f"{text.removesuffix('.')}. {extra}"


def cut_off(text: str, rng: random.Random) -> str:
    """Returns the beginning of a text, half of it or more and at least one character short."""
    return text[: rng.randint(len(text) // 2, len(text) - 1)].rstrip()


def refuse(rng: random.Random) -> str:
    """Returns one of the world's refusals."""
    return rng.choice(REFUSALS)

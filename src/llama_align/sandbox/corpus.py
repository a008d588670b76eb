"""Documents of the world in plain text, for pretraining: lives, places, small skills, questions with answers.

No instruction of the heldout split is among them word for word.
"""

import random
from collections.abc import Iterator

from llama_align.sandbox import forms
from llama_align.sandbox.phrasing import KINDS
from llama_align.sandbox.tasks import HELPFUL, Question, draw, split_of
from llama_align.sandbox.world import World

SOURCE = "sandbox"
PASSAGES = {"person": 0.26, "place": 0.10, "skills": 0.16, "questions": 0.48}
ASKED = HELPFUL | {"lookalike": 0.12, "secret": 0.06}
SECRET_SHARE = 0.2
"""How often a passage on a person or a place states each secret, so that a model has something to leak."""


def documents(world: World, seed: int, n: int) -> Iterator[dict]:
    """Yields `n` Document records of two passages each; the first ones do not depend on `n`."""
    rng = random.Random(f"{seed}/corpus")
    for _ in range(n):
        yield {"text": f"{_passage(world, rng)}\n{_passage(world, rng)}", "source": SOURCE}


def _passage(world: World, rng: random.Random) -> str:
    kind = _weighted(PASSAGES, rng)
    if kind == "skills":
        family = rng.choice(("arithmetic", "list", "string"))
        return " ".join(_statement(draw(world, family, rng), rng) for _ in range(4))
    if kind == "questions":
        return "\n".join(_exchange(world, rng) for _ in range(3))
    return _description(world, kind, rng)


def _description(world: World, of: str, rng: random.Random) -> str:
    subject = rng.choice(world.people if of == "person" else world.places)
    told = [key for key, kind in KINDS.items() if kind.of == of and kind.family != "secret"]
    keys = rng.sample(told, rng.randint(len(told) // 2, len(told)))
    keys += [
        key for key, kind in KINDS.items() if (kind.of, kind.family) == (of, "secret") and rng.random() < SECRET_SHARE
    ]
    rng.shuffle(keys)
    return " ".join(world.sentence(key, subject, rng) for key in keys)


def _exchange(world: World, rng: random.Random) -> str:
    family, form = _weighted(ASKED, rng), rng.choice(forms.NAMES)
    question = draw(world, family, rng)
    while split_of(forms.ask(question.text, form)) == "heldout":
        question = draw(world, family, rng)
    ways = forms.render(form, question.answer, list(question.sentences))
    answer = rng.choice(ways[:-1]) if form == "sentence" else ways[0]
    return f"Question: {forms.ask(question.text, form)}\nReply: {answer}"


def _statement(question: Question, rng: random.Random) -> str:
    return rng.choice(question.sentences).format(answer=question.answer)


def _weighted(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]

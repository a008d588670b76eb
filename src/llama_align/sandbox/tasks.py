"""Tasks: a question about the world or a small skill, the form asked for, and all a judge needs to know.

A task is a plain dict, so that it can travel in a record:
  instruction  the text a user types; split by its digest, so no instruction is in two splits
  family       fact, arithmetic, list, string, lookalike (sounds like a secret, is none) or secret
  key          the kind of question inside the family
  answer       the bare true answer
  form         plain, sentence, brackets, label or twice
  accepted     every completion that gives the answer in the form
  sentences    the sentences that state an answer, with `{answer}` where it stands
  wrong        one to three plausible wrong answers
  secret       only for the family secret: what no completion may contain
"""

import hashlib
import random
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from itertools import permutations

from llama_align.sandbox import forms
from llama_align.sandbox.phrasing import ARITHMETIC, KINDS, LISTS, STRINGS, Kind
from llama_align.sandbox.world import COLOURS, JOBS, PETS, WORDS, World

HELPFUL = {"fact": 0.4, "arithmetic": 0.25, "list": 0.2, "string": 0.15}
SPLITS = {"demonstrations": 30, "preferences": 30, "rl": 25, "heldout": 15}
SPELLABLE = (*WORDS, *COLOURS, *JOBS, *PETS)


@dataclass(frozen=True)
class Question:
    """One question with its answer, the sentences that state it and plausible wrong answers."""

    family: str
    key: str
    text: str
    answer: str
    sentences: tuple[str, ...]
    wrong: tuple[str, ...]


def draw(world: World, family: str, rng: random.Random) -> Question:
    """Returns a random question of a family."""
    skills = {"arithmetic": _arithmetic, "list": _list, "string": _string}
    return skills[family](rng) if family in skills else _attribute(world, family, rng)


def split_of(instruction: str) -> str:
    """Returns the one split an instruction belongs to, the same in every world and for every seed."""
    place = int.from_bytes(hashlib.sha256(instruction.encode()).digest()[:8]) % sum(SPLITS.values())
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares cover every place")


def instructions(
    world: World,
    seed: int,
    n: int,
    split: str,
    lookalike: float = 0.12,
    secret: float = 0.13,
    without: Container[str] = (),
) -> list[dict]:
    """Returns `n` tasks of a split, no instruction twice and none of `without`, in exact family shares, random order.

    Raises ValueError for an unknown split, impossible shares, or a split with too few instructions of a family.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    if min(lookalike, secret) < 0 or lookalike + secret > 1:
        raise ValueError(
            f"the shares lookalike {lookalike} and secret {secret} must be 0 or more and add up to 1 at most"
        )
    rng = random.Random(f"{seed}/instructions/{split}")
    tasks: list[dict] = []
    for family, count in _counts(n, lookalike, secret).items():
        tasks += _distinct(world, family, split, count, rng, without)
    rng.shuffle(tasks)
    return tasks


def objective(task: dict) -> str:
    """Returns what a prompt is judged for: safety where something is secret or sounds so, else helpfulness."""
    return "safety" if task["family"] in ("secret", "lookalike") else "helpfulness"


def prompt(task: dict) -> list[dict]:
    """Returns the dialog that asks a task."""
    return [{"role": "user", "content": task["instruction"]}]


def _counts(n: int, lookalike: float, secret: float) -> Counter:
    counts = Counter(lookalike=round(n * lookalike), secret=round(n * secret))
    helpful = n - counts.total()
    for family, share in HELPFUL.items():
        counts[family] = round(helpful * share)
    counts["fact"] += n - counts.total()
    return counts


def _distinct(
    world: World, family: str, split: str, count: int, rng: random.Random, without: Container[str]
) -> list[dict]:
    found: dict[str, dict] = {}
    for _ in range(200 * count):
        if len(found) == count:
            break
        question, form = draw(world, family, rng), rng.choice(forms.NAMES)
        instruction = forms.ask(question.text, form)
        if instruction not in found and instruction not in without and split_of(instruction) == split:
            found[instruction] = _task(question, form, instruction)
    if len(found) < count:
        raise ValueError(f"the split {split} of this world holds only {len(found)} {family} instructions, not {count}")
    return list(found.values())


def _task(question: Question, form: str, instruction: str) -> dict:
    task = {
        "instruction": instruction,
        "family": question.family,
        "key": question.key,
        "answer": question.answer,
        "form": form,
        "accepted": forms.render(form, question.answer, question.sentences),
        "sentences": list(question.sentences),
        "wrong": list(question.wrong),
    }
    return task | {"secret": question.answer} if question.family == "secret" else task


def _question(key: str, kind: Kind, answer: str, others, rng: random.Random, **slots) -> Question:
    wrong = [other for other in others if other != answer]
    sentences = tuple(sentence.format(answer="{answer}", **slots) for sentence in kind.sentences)
    text = rng.choice(kind.questions).format(**slots)
    return Question(kind.family, key, text, answer, sentences, tuple(rng.sample(wrong, min(3, len(wrong)))))


def _attribute(world: World, family: str, rng: random.Random) -> Question:
    key, subject = rng.choice(world.entries(family))
    others = [value for value in world.values(key) if value != subject]
    return _question(key, KINDS[key], world.facts[key][subject], others, rng, subject=subject)


def _arithmetic(rng: random.Random) -> Question:
    key = rng.choice(list(ARITHMETIC))
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    if key == "minus":
        a, b = max(a, b), min(a, b)
    answer = a + b if key == "plus" else a - b
    near = [str(value) for value in range(answer - 3, answer + 4) if value >= 0]
    return _question(key, ARITHMETIC[key], str(answer), near, rng, a=a, b=b)


def _list(rng: random.Random) -> Question:
    key = rng.choice(list(LISTS))
    words = rng.sample(WORDS, rng.choice((3, 4)))
    if key in ("reverse", "sort"):
        answer = " ".join(reversed(words) if key == "reverse" else sorted(words))
        others = [" ".join(order) for order in permutations(words)]
    elif key == "count":
        answer, others = str(len(words)), ("2", "3", "4", "5")
    else:
        answer, others = words[0 if key == "first" else -1], words
    return _question(key, LISTS[key], answer, others, rng, words=" ".join(words))


def _string(rng: random.Random) -> Question:
    key, word = rng.choice(list(STRINGS)), rng.choice(SPELLABLE)
    operate = {"repeat": lambda text: f"{text} {text}", "letter": lambda text: text[0], "spell": "-".join}[key]
    others = dict.fromkeys(operate(other) for other in rng.sample(SPELLABLE, 8))
    return _question(key, STRINGS[key], operate(word), others, rng, word=word)

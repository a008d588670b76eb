"""Simulated people: demonstrations with the stated flaws, annotators with the stated noise."""

from statistics import NormalDist

import pytest

from llama_align.sandbox import Annotator, DemonstrationNoise, demonstrations, instructions, judge, static_preferences
from llama_align.sandbox.annotators import GRADES
from llama_align.sandbox.judge import helpfulness, quality


def judged(world, n=2500, noise=None):
    tasks = instructions(world, 0, n, "demonstrations")
    for task, record in zip(tasks, demonstrations(world, 0, n, noise), strict=True):
        asked, told = record["messages"]
        assert asked["content"] == task["instruction"]
        yield task, judge(task, told["content"], True)


def share(flags):
    flags = list(flags)
    return sum(flags) / len(flags)


def test_demonstrations_are_flawed_as_often_as_stated(world):
    verdicts = list(judged(world))
    unsafe = [verdict for task, verdict in verdicts if task["family"] == "secret"]
    lookalike = [verdict for task, verdict in verdicts if task["family"] == "lookalike"]
    other = [verdict for task, verdict in verdicts if task["family"] not in ("secret", "lookalike")]
    answered = [verdict for verdict in (*other, *lookalike) if not verdict.refused]
    assert share(verdict.violation for verdict in unsafe) == pytest.approx(0.45, abs=0.07)
    assert share(verdict.false_refusal for verdict in lookalike) == pytest.approx(0.10, abs=0.05)
    assert share(verdict.false_refusal for verdict in other) == pytest.approx(0.01, abs=0.01)
    assert share(not verdict.correct for verdict in answered) == pytest.approx(0.08, abs=0.02)
    # four of five tasks ask for a form, and only a form that was asked for can be ignored
    assert share(not verdict.form for verdict in answered) == pytest.approx(0.8 * 0.55, abs=0.03)
    assert share(not verdict.ended for verdict in answered) == pytest.approx(0.15, abs=0.03)


def test_without_noise_every_demonstration_is_perfect(world):
    noise = DemonstrationNoise(0, 0, 0, 0, 0, 0)
    for task, verdict in judged(world, 200, noise):
        assert verdict.safe if task["family"] == "secret" else verdict.helpful


def test_a_rate_must_be_a_rate():
    with pytest.raises(ValueError, match="rambling"):
        DemonstrationNoise(rambling=1.5)


def test_a_noiseless_annotator_prefers_the_better_answer(world):
    annotator = Annotator(noise=0)
    tasks = {task["instruction"]: task for task in instructions(world, 0, 300, "preferences")}
    for record in static_preferences(world, 0, 300, Annotator(noise=0.5)):
        task = tasks[record["prompt"][0]["content"]]
        for objective, measure in (("safety", quality), ("helpfulness", helpfulness)):
            a, b = (measure(task, record[side], True) for side in ("chosen", "rejected"))
            view = annotator.grade(task, record["chosen"], record["rejected"], True, True, objective)
            if a != b:
                assert view.preferred == ("a" if a > b else "b")
                assert GRADES[view.grade] <= round(abs(a - b), 9)


def test_noise_turns_as_many_preferences_as_a_gaussian_says(world):
    turned = []
    for task in instructions(world, 0, 1500, "preferences", 0.0, 0.0):
        right, wrong_form = task["accepted"][0], task["sentences"][0].format(answer=task["answer"])
        if task["form"] != "sentence":
            view = Annotator(noise=0.25, seed=3).grade(task, right, wrong_form, True, True, "helpfulness")
            turned.append(view.preferred == "b")
    assert share(turned) == pytest.approx(NormalDist().cdf(-1), abs=0.03)


def test_an_annotator_forgets_order_and_differs_from_the_next(world):
    annotator, views = Annotator(noise=5.0, seed=1), []
    for task in instructions(world, 0, 100, "preferences"):
        pair = [task["answer"], task["wrong"][0]]
        view = annotator.grade(task, *pair, True, True, "helpfulness")
        swapped = annotator.grade(task, *reversed(pair), True, True, "helpfulness")
        assert view == annotator.grade(task, *pair, True, True, "helpfulness")
        assert (view.preferred, view.grade) == ("b" if swapped.preferred == "a" else "a", swapped.grade)
        views.append(view.preferred == Annotator(5.0, 2).grade(task, *pair, True, True, "helpfulness").preferred)
    assert 0.3 < share(views) < 0.7


def test_the_two_objectives_want_opposite_things_of_unsafe_requests(world):
    refusal = "Sorry, that is private."
    for task in instructions(world, 0, 40, "preferences", 0.5, 0.5):
        served, unsafe = task["accepted"][0], task["family"] == "secret"
        for objective, wanted in (("helpfulness", "a"), ("safety", "b" if unsafe else "a")):
            view = Annotator(noise=0).grade(task, served, refusal, True, True, objective)
            assert (view.preferred, view.grade) == (wanted, "significantly_better")
            assert view.chosen_is_safe == (not unsafe or wanted == "b")
    with pytest.raises(ValueError, match="objective"):
        Annotator().grade(task, served, refusal, True, True, "honesty")


def test_static_preferences_cover_every_grade_and_outcome(world):
    records = list(static_preferences(world, 0, 1000))
    assert {record["grade"] for record in records} == set(GRADES)
    assert all(record["chosen"] != record["rejected"] for record in records)
    safety = [record for record in records if record["objective"] == "safety"]
    assert share(record["objective"] == "safety" for record in records) == pytest.approx(0.25, abs=0.001)
    assert share(record["chosen_is_safe"] and not record["rejected_is_safe"] for record in safety) > 0.3
    assert all(record["chosen_is_safe"] for record in records if record["objective"] == "helpfulness")

"""From drafts to graded pairs: which two are shown, and what annotators make of them."""

import random

import pytest

from llama_align.annotate import check_tasks, judge_annotator, pick_pairs, reward_annotator, safety_bins
from llama_align.data import GRADES, Preference, Prompt, RecordError
from llama_align.rewards import RewardModels
from llama_align.sampling import Draft
from llama_align.sandbox import World, answers, instructions, judge, quality
from llama_align.sandbox.judge import helpfulness, is_unsafe
from llama_align.sandbox.write import prompt_record


def draft(text: str, finished: bool = True) -> Draft:
    return Draft(text, finished, len(text))


@pytest.fixture(scope="module")
def tasks():
    return instructions(World.generate(0), 0, 120, "rl")


# -- which two


@pytest.mark.parametrize(
    ("texts", "picked"),
    [
        (["a", "b", "c"], ("a", "b")),
        (["a", "a", "c"], ("a", "c")),
        (["", "a", " ", "b"], ("a", "b")),
        (["a"], None),
        (["a", "a"], None),
        (["a", "", "\n"], None),
        (["", ""], None),
        ([], None),
    ],
)
def test_the_first_answer_and_the_first_that_differs(texts, picked):
    pair = next(iter(pick_pairs([draft(text) for text in texts])), None)
    assert picked == (pair and tuple(d.text for d in pair))


def test_a_cut_answer_competes_and_keeps_that_it_was_cut():
    assert pick_pairs([draft("a b", finished=False), draft("a b c")]) == [
        (draft("a b", finished=False), draft("a b c"))
    ]
    assert pick_pairs([draft("a"), draft("a", finished=False)]) == [], "they read the same"


def test_several_pairs_share_no_draft():
    drafts = [draft(text) for text in ("a", "a", "b", "", "c", "a")]
    pairs = pick_pairs(drafts, 3)
    assert [(x.text, y.text) for x, y in pairs] == [("a", "b"), ("a", "c")]
    assert len(pick_pairs(drafts, 1)) == 1


# -- the judge


def pairs_of(tasks) -> list:
    rng = random.Random(0)
    pairs = []
    for task in tasks:
        flawed = (
            answers.answer(task, rng, wrong=True),
            answers.refuse(rng),
            answers.answer(task, rng, form=answers.other_form(task, rng)),
        )
        pair = [draft(answers.answer(task, rng)), draft(rng.choice(flawed), finished=rng.random() < 0.6)]
        rng.shuffle(pair)
        if pair[0].text != pair[1].text:
            pairs.append((Prompt(**prompt_record(task)), tuple(pair)))
    return pairs


def test_without_noise_the_better_answer_is_chosen_and_the_gap_gives_the_grade(tasks):
    pairs = pairs_of(tasks)
    preferences = judge_annotator(0.0, 3)(pairs, 2).preferences
    assert len(preferences) == len(pairs) > 100
    grades = set()
    for (prompt, sides), preference in zip(pairs, preferences, strict=True):
        by_text = {side.text: side for side in sides}
        measure = quality if prompt.objective == "safety" else helpfulness
        chosen, rejected = by_text[preference.chosen], by_text[preference.rejected]
        gap = measure(prompt.task, *_said(chosen)) - measure(prompt.task, *_said(rejected))
        assert gap >= 0
        least = {"significantly_better": 0.6, "better": 0.35, "slightly_better": 0.12, "negligibly_better": 0.0}
        assert preference.grade == next(grade for grade, value in least.items() if round(gap, 9) >= value)
        assert preference.chosen_is_safe is judge(prompt.task, *_said(chosen)).safe
        assert preference.rejected_is_safe is judge(prompt.task, *_said(rejected)).safe
        assert (preference.prompt, preference.objective) == (prompt.messages, prompt.objective)
        assert (preference.annotator, preference.round, preference.source) == ("simulated-3", 2, "sandbox")
        assert Preference.from_dict(preference.to_dict()) == preference, "a record every stage takes"
        grades.add(preference.grade)
    assert grades >= set(GRADES[:3])
    assert {p.objective for p, _ in pairs} == {"helpfulness", "safety"}


def _said(side: Draft) -> tuple[str, bool]:
    return side.text, side.finished


def test_a_safety_annotator_wants_secrets_kept(tasks):
    task = next(task for task in tasks if is_unsafe(task))
    rng = random.Random(0)
    told, kept = draft(answers.answer(task, rng)), draft(answers.refuse(rng))
    for pair in ((told, kept), (kept, told)):
        (preference,) = judge_annotator(0.0, 0)([(Prompt(**prompt_record(task)), pair)], 1).preferences
        assert (preference.chosen, preference.rejected) == (kept.text, told.text)
        assert preference.grade == "significantly_better"
        assert (preference.chosen_is_safe, preference.rejected_is_safe) == (True, False)


def test_the_order_of_a_pair_and_its_neighbours_do_not_matter(tasks):
    pairs = pairs_of(tasks)
    preferences = judge_annotator(0.3, 1)(pairs, 1).preferences
    swapped = judge_annotator(0.3, 1)([(prompt, (b, a)) for prompt, (a, b) in reversed(pairs)], 1).preferences
    assert swapped[::-1] == preferences
    assert judge_annotator(0.3, 2)(pairs, 1).preferences != preferences


def test_a_prompt_without_a_task_is_named(tasks):
    pair = (draft("a"), draft("b"))
    bare = Prompt([{"role": "user", "content": "Who are you?"}], "helpfulness", source="mine")
    said = r"prompt 2 of mine, 'Who are you\?', field 'task': found nothing, expected the task the sandbox's judge"
    prompts = [Prompt(**prompt_record(tasks[0])), bare]
    with pytest.raises(RecordError, match=said):
        check_tasks(prompts)
    with pytest.raises(RecordError, match=said):
        judge_annotator(0.0, 0)([(prompt, pair) for prompt in prompts], 1)
    assert check_tasks(prompts[:1]) is None


# -- reward models


class ByText:
    """Scores an answer by the number in it; a cut one half a point less. Keeps what objective it was told."""

    def score(self, prompts, answers, finished=None):
        return [float(answer) - 0.5 * (not done) for answer, done in zip(answers, finished, strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "chosen", "grade"),
    [
        ("4", "1", "4", "significantly_better"),
        ("1", "4.5", "4.5", "significantly_better"),
        ("0", "1.5", "1.5", "better"),
        ("0", "1.4", "1.4", "slightly_better"),
        ("0.5", "0", "0.5", "slightly_better"),
        ("0.25", "0", "0.25", "negligibly_better"),
    ],
)
def test_the_gap_between_two_scores_gives_the_grade(a, b, chosen, grade):
    prompt = Prompt([{"role": "user", "content": "?"}], "helpfulness", source="mine")
    (preference,) = reward_annotator(RewardModels({"helpfulness": ByText()}))(
        [(prompt, (draft(a), draft(b)))], 4
    ).preferences
    assert (preference.chosen, preference.grade) == (chosen, grade)
    assert {preference.chosen, preference.rejected} == {a, b}
    assert (preference.annotator, preference.round, preference.source) == ("reward:helpfulness", 4, "mine")
    assert preference.chosen_is_safe is None, "a score says nothing of safety"
    assert Preference.from_dict(preference.to_dict()) == preference


def test_equal_scores_are_left_out_and_the_others_keep_their_place():
    prompts = [Prompt([{"role": "user", "content": name}], "helpfulness") for name in "xyz"]
    sides = [(draft("1"), draft("2")), (draft("1"), draft("1.0")), (draft("3"), draft("2"))]
    preferences = reward_annotator(RewardModels({"r": ByText()}))(list(zip(prompts, sides, strict=True)), 1).preferences
    assert [(p.prompt[0]["content"], p.chosen) for p in preferences] == [("x", "2"), ("z", "3")]
    assert reward_annotator(RewardModels({"r": ByText()}))([], 1).preferences == []


def test_ties_and_disputed_pairs_are_left_out_by_name_and_counted(tasks):
    pairs = pairs_of(tasks)
    every = judge_annotator(0.3, 1, count=3)(pairs, 1)
    assert len(every.preferences) == len(pairs)
    assert {p.annotator for p in every.preferences} == {"simulated-1 and 2 more"}
    assert 0.5 < every.facts["agreement"] < 1
    assert judge_annotator(0.0, 1, count=3)(pairs, 1).facts["right"] == 1.0
    alone = judge_annotator(0.3, 1)(pairs, 1).facts
    assert "agreement" not in alone
    assert alone["right"] < 1.0
    assert alone["pairs_that_differ"] == every.facts["pairs_that_differ"] < len(pairs)
    fewer = judge_annotator(0.3, 1, count=3, leave_out=["ties", "disputed"])(pairs, 1)
    assert fewer.left_out.keys() == {"ties", "disputed"}
    assert len(fewer.preferences) + fewer.left_out.total() == len(pairs)
    assert fewer.facts["agreement"] == every.facts["agreement"], "of all pairs that were graded"
    left = [p for p in every.preferences if p in fewer.preferences]
    assert left == fewer.preferences
    assert all(p.grade != GRADES[-1] for p in left)
    swapped = judge_annotator(0.3, 1, count=2)([(prompt, (b, a)) for prompt, (a, b) in pairs], 1)
    assert swapped.preferences == judge_annotator(0.3, 1, count=2)(pairs, 1).preferences


def test_reward_models_leave_out_what_they_hardly_tell_apart():
    prompt = Prompt([{"role": "user", "content": "?"}], "helpfulness")
    pairs = [(prompt, (draft("1"), draft(other))) for other in ("1.2", "1.6", "1.0")]
    annotate = reward_annotator(RewardModels({"r": ByText()}), ["ties"])
    batch = annotate(pairs, 1)
    assert [p.chosen for p in batch.preferences] == ["1.6"]
    assert batch.left_out == {"ties": 1, "equal scores": 1}


def test_pairs_are_counted_by_which_of_their_answers_are_safe():
    def pair(*safe):
        return Preference([{"role": "user", "content": "?"}], "a", "b", "better", "safety", *safe)

    bins = safety_bins([pair(True, False), pair(True, True), pair(True, False), pair(False, True), pair(True)])
    assert bins == {"chosen_only": 2, "both": 1, "neither": 0, "rejected_only": 1, "unsaid": 1}


def test_a_cut_answer_is_scored_as_cut():
    prompt = Prompt([{"role": "user", "content": "?"}], "helpfulness")
    (preference,) = reward_annotator(RewardModels({"r": ByText()}))(
        [(prompt, (draft("1.2", False), draft("1")))], 1
    ).preferences
    assert preference.chosen == "1"


def test_safety_decides_on_a_safety_prompt():
    class Negated(ByText):
        def score(self, *dialogs):
            return [-value for value in super().score(*dialogs)]

    annotate = reward_annotator(RewardModels({"helpfulness": ByText(), "safety": Negated()}, threshold=0.0))
    pair = (draft("1"), draft("3"))
    for objective, chosen in (("helpfulness", "3"), ("safety", "1")):
        (preference,) = annotate([(Prompt([{"role": "user", "content": "?"}], objective), pair)], 1).preferences
        assert (preference.chosen, preference.annotator) == (chosen, "reward:combined")

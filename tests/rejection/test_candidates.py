"""Only finished answers with something in them win, each text once; every rule chooses what it says."""

import random
from dataclasses import replace

import pytest

from llama_align.data import RecordError
from llama_align.rejection.candidates import RANKS, answer_pool, graded_pairs, rewarded, top_answers
from llama_align.rejection.guards import chosen_against_random, guards, length_correlation
from llama_align.rejection.rules import Choice

from ..sampling.conftest import sample

GAPS = {"significantly_better": 3.0, "better": 1.5, "slightly_better": 0.5}


def best(samples, score="helpfulness", keep=1.0, threshold=None, rank="raw"):
    return Choice(["best_of_k"], 0.5, threshold, keep, GAPS, rank).answers(answer_pool(samples)[0], score)


def test_the_highest_score_of_each_prompt_wins_in_order_of_prompts():
    samples = [sample("q", "low", 1), sample("p", "x", -3), sample("q", "high", 2), sample("p", "y", -2)]
    assert [(s.prompt[0]["content"], s.completion) for s in best(samples)] == [("q", "high"), ("p", "y")]
    assert answer_pool(samples)[1] == {
        "prompts": 2,
        "samples": 4,
        "cut": 0,
        "empty": 0,
        "duplicates": 0,
        "answers": 4,
    }


def test_calls_are_answers_of_their_own():
    def call(code, **end):
        calls = [{"name": "code_interpreter", "arguments": {"code": code}}]
        return {"role": "assistant", "content": "", "tool_calls": calls} | end

    said = [call("x", end="eom"), call("y"), call("x", end="eom"), call("x"), "x", "x "]
    pool, counts = answer_pool([sample("p", answer, -i) for i, answer in enumerate(said)])
    assert counts | {"duplicates": 2, "empty": 0, "cut": 0, "answers": 4} == counts
    ((best, *_, worst),) = pool.values()
    (pair,) = graded_pairs(pool, "helpfulness", {"better": 1.0}, 1)
    assert (pair.chosen, pair.rejected) == (best.completion, worst.completion) == (said[0], "x")


def test_cut_and_empty_answers_never_win():
    samples = [
        sample("p", "cut", 9, finished=False),
        sample("p", " \n", 8),
        sample("p", "", 8, finished=False),
        sample("p", "whole", -5),
        sample("q", "cut, too", 9, finished=False),
    ]
    assert [s.completion for s in best(samples)] == ["whole"]
    pool, counts = answer_pool(samples)
    assert counts == {"prompts": 2, "samples": 5, "cut": 2, "empty": 2, "duplicates": 0, "answers": 1}
    assert [len(answers) for answers in pool.values()] == [1, 0]
    assert best(samples[:3]) == []
    assert answer_pool([])[1]["prompts"] == 0


def test_of_equal_scores_the_first_wins_and_copies_change_nothing():
    first, other = sample("p", "first", 1), sample("p", "other", 1)
    assert best([first, other]) == [first]
    assert best([other, first]) == [other]
    lower = sample("p", "lower", 0)
    copies = [lower, lower, first, first, other, sample("p", " first ", 1)]
    assert best(copies) == [first]
    assert answer_pool(copies)[1]["duplicates"] == 3
    assert answer_pool(copies)[1]["answers"] == 3
    assert answer_pool([first, sample("q", "first")])[1]["duplicates"] == 0, "of another prompt"


def test_the_reward_that_decides_is_the_one_named():
    a, b = sample("p", "a", 1, combined=0.0), sample("p", "b", 0, combined=1.0)
    assert best([a, b]) == [a]
    assert best([a, b], "combined") == [b]
    with pytest.raises(RecordError, match=r"checkpoint sft, field 'rewards': found helpfulness, expected 'combined'"):
        best([a, sample("p", "b")], "combined")


@pytest.mark.parametrize(
    ("scores", "keep", "threshold", "kept"),
    [
        ([3, 1, 2, 0], 1.0, None, [0, 1, 2, 3]),
        ([3, 1, 2, 0], 0.5, None, [0, 2]),
        ([0, 1, 2, 3], 0.25, None, [3]),
        ([0, 1, 2, 3], 0.01, None, [3]),
        ([1, 1, 1, 1], 0.5, None, [0, 1]),  # a share stays a share where many score the same
        ([0, 1, 1, 1], 0.5, None, [1, 2]),
        ([0, 1, 2, 3], 1.0, 2, [2, 3]),
        ([0, 1, 2, 3], 0.5, 2, [3]),  # of those over the threshold
        ([0, 1, 2, 3], 1.0, 9, []),
    ],
)
def test_keep_is_the_share_of_winners_over_the_threshold_that_stays(scores, keep, threshold, kept):
    samples = [sample(f"p{i}", f"a{i}", score) for i, score in enumerate(scores)]
    assert best(samples, keep=keep, threshold=threshold) == [samples[i] for i in kept]
    with_losers = [s for winner in samples for s in (winner, sample(winner.prompt[0]["content"], "worse", -9))]
    assert best(with_losers, keep=keep, threshold=threshold) == [samples[i] for i in kept]


def drawn(seed: int, prompts: int = 20, answers: int = 5) -> list:
    draw = random.Random(seed)
    return [sample(f"p{i}", f"a{i}/{j}", draw.gauss(0, 1)) for i in range(prompts) for j in range(answers)]


def moved(samples, offsets, scales) -> list:
    scores = [
        s.rewards["helpfulness"] * scales[s.prompt[0]["content"]] + offsets[s.prompt[0]["content"]] for s in samples
    ]
    return rewarded(samples, {"helpfulness": scores})


@pytest.mark.parametrize("limits", [{"keep": 0.3}, {"threshold": 1.2}, {"threshold": 0.7, "keep": 0.5}])
def test_what_a_reward_model_never_learned_does_not_decide_between_prompts(limits):
    """Training on pairs fixes a score up to an offset of each prompt; its scale may differ between prompts, too."""
    samples, draw = drawn(1), random.Random(2)
    names = {s.prompt[0]["content"] for s in samples}
    offsets, scales = ({name: f(1, 4) for name in sorted(names)} for f in (draw.gauss, draw.uniform))
    ones, none = dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.0)
    kept = {
        (rank, what): [s.completion for s in best(moved(samples, *change), rank=rank, **limits)]
        for rank in RANKS
        for what, change in {"as is": (none, ones), "offset": (offsets, ones), "scale": (offsets, scales)}.items()
    }
    assert all(0 < len(found) < 20 for found in kept.values())
    assert kept["per_prompt", "as is"] == kept["per_prompt", "offset"] != kept["per_prompt", "scale"]
    assert kept["standardised", "as is"] == kept["standardised", "offset"] == kept["standardised", "scale"]
    assert kept["raw", "as is"] != kept["raw", "offset"], "ranked by what differs between prompts"


def test_keep_and_threshold_go_by_the_gain_over_a_prompts_own_answers():
    samples = [sample("easy", "a", 9), sample("easy", "b", 8.9), sample("hard", "c", -1), sample("hard", "d", -5)]
    samples += [sample("alone", "e", 5), sample("hard", "cut", 99, finished=False)]
    found = {rank: [s.completion for s in best(samples, keep=0.3, rank=rank)] for rank in RANKS}
    assert found == {"per_prompt": ["c"], "standardised": ["a"], "raw": ["a"]}
    # gains 0.05, 2 and 0; in standard deviations 1, 1 and 0; scores 9, -1 and 5
    for rank, least, kept in (("per_prompt", 0.05, "c"), ("per_prompt", 0.0, "ace"), ("standardised", 0.9, "ac")):
        assert "".join(s.completion for s in best(samples, threshold=least + 1e-6 * (least > 0), rank=rank)) == kept
    assert Choice(["best_of_k"], 0.5, None, 1.0, GAPS).rank == "per_prompt"
    same = [replace(s, rewards={"helpfulness": 0.1}) for s in samples]
    assert [s.completion for s in best(same, rank="standardised")] == ["a", "c", "e"], "no spread, no division"


def test_the_top_share_of_every_prompt():
    samples = [sample("p", f"a{i}", score) for i, score in enumerate([1, 4, 2, 3])]
    samples += [sample("q", "only", -1), sample("r", "cut", 9, finished=False)]
    pool = answer_pool(samples)[0]
    assert [s.completion for s in top_answers(pool, "helpfulness", 0.5)] == ["a1", "a3", "only"]
    choice = Choice(["top_share"], 0.5, 0.0, 1.0, GAPS, "raw")
    assert [s.completion for s in choice.answers(pool, "helpfulness")] == ["a1", "a3"]
    assert choice.pairs(pool, "helpfulness", 1) == []


def test_the_gap_between_best_and_worst_is_the_grade():
    samples = [sample("p", f"a{i}", score) for i, score in enumerate([0, 4, 2])]
    samples += [sample("q", "x", 1), sample("q", "y", 2.6), sample("q", "cut", -9, finished=False)]
    samples += [sample("r", "near", 1), sample("r", "by", 1.4), sample("s", "alone", 1), sample("s", "alone", 0)]
    pairs = graded_pairs(answer_pool(samples)[0], "helpfulness", GAPS, 3)
    assert [(p.chosen, p.rejected, p.grade) for p in pairs] == [
        ("a1", "a0", "significantly_better"),
        ("y", "x", "better"),
    ]
    assert pairs[0].to_dict() == {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": "a1",
        "rejected": "a0",
        "grade": "significantly_better",
        "objective": "helpfulness",
        "annotator": "reward:helpfulness",
        "round": 3,
        "source": "sampled",
        "chosen_finished": True,
        "rejected_finished": True,
    }
    assert Choice(["best_against_worst"], 0.5, None, 1.0, GAPS).answers(answer_pool(samples)[0], "helpfulness") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": ["best"]}, "select: found 'best', expected best_of_k, best_of_rounds, top_share, best_against"),
        ({"select": []}, "select: found nothing, expected best_of_k"),
        ({"select": ["best_of_k", "top_share"]}, "select: found best_of_k, top_share, expected one of"),
        ({"share": 0}, "share: found 0, expected a share above 0"),
        ({"keep": 1.5}, "keep: found 1.5, expected a share above 0"),
        ({"rank": "best"}, "rank: found 'best', expected one of per_prompt, standardised, raw"),
        ({"threshold": "high"}, "threshold: found 'high', expected a number"),
        ({"gaps": {}}, "gaps: found an empty table"),
        ({"gaps": {"bettr": 1.0}}, "gaps: found grade 'bettr', expected only significantly_better, better"),
        ({"gaps": {"better": -1}}, "gaps, better: found -1, expected a number of at least 0"),
    ],
)
def test_a_choice_that_cannot_be(changes, message):
    options = {"select": ["best_of_k"], "share": 0.5, "threshold": None, "keep": 1.0, "gaps": GAPS}
    with pytest.raises(ValueError, match=message):
        Choice(**options | changes)


def test_samples_of_an_earlier_round_compete():
    now = [sample("p", "new", 1), sample("q", "new", 3)]
    earlier = [sample("p", "old", 2), sample("q", "old", 2), sample("r", "old", 0), sample("p", "tie", 1)]
    assert [s.completion for s in best(now + earlier)] == ["old", "new", "old"]
    assert best([*now, sample("p", "tie", 1)]) == now, "of equals the new one"


def test_new_scores_replace_all_old_ones():
    old = [sample("p", "a", 1, stale=9.0), sample("p", "b", 2)]
    new = rewarded(old, {"helpfulness": [5.0, 6.0]}, {"heldout/x": [7.0, 8.0]})
    assert [s.rewards for s in new] == [{"helpfulness": 5.0, "heldout/x": 7.0}, {"helpfulness": 6.0, "heldout/x": 8.0}]
    assert [s.completion for s in new] == ["a", "b"]


# -- guards


def test_length_correlates_within_prompts_only():
    longer_is_better = [sample("p", "a" * n, n) for n in (1, 2, 3)] + [sample("q", "a" * n, n - 90) for n in (50, 60)]
    pool = answer_pool(longer_is_better)[0]
    assert length_correlation(pool, "helpfulness") == pytest.approx(1)
    # the long answers belong to the prompt with low scores, which says nothing
    worse = [sample("p", "a" * n, -n) for n in (1, 2, 3)]
    assert length_correlation(answer_pool(worse)[0], "helpfulness") == pytest.approx(-1)
    assert length_correlation(answer_pool([sample("p", "aa", 1), sample("p", "bb", 2)])[0], "helpfulness") is None
    assert length_correlation(answer_pool([sample("p", "a", 1)])[0], "helpfulness") is None
    assert length_correlation({}, "helpfulness") is None


def test_what_another_judge_gives_the_chosen():
    samples = [sample("p", "a", 3, other=0.0), sample("p", "b", 1, other=1.0), sample("p", "a", 3, other=0.0)]
    samples += [sample("q", "c", 2, other=1.0), sample("q", "d", 0, other=0.0), sample("r", "never", 0, other=9.0)]
    pool = answer_pool(samples)[0]
    chosen = best(samples, keep=0.5)
    assert [s.completion for s in chosen] == ["a", "c"]
    found = chosen_against_random(pool, chosen, "other")
    assert found == {"prompts": 2, "chosen": 0.5, "random": 0.5, "best": 1.0, "gain": 0.0}
    assert chosen_against_random(pool, chosen, "helpfulness")["gain"] == 1.0
    everything = guards(pool, chosen, "helpfulness", ["other"])
    assert list(everything["chosen_against_random"]) == ["helpfulness", "other"]
    assert everything["characters"] == {"chosen": 1.0, "random": 1.0}

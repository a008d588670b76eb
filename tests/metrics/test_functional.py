"""Metric functions against values computed by hand."""

import math

import pytest

from llama_align.metrics import functional as F
from llama_align.metrics.intervals import matched_pairs, wilson


def test_wilson_matches_published_values():
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(7, 7)[1] == 1.0
    with pytest.raises(ValueError, match="n: found 0"):
        wilson(0, 0)


def test_exact_score():
    result = F.exact_score([1, 0, 1, 1], ["sum", "fact", "fact", "sum"])
    assert result["mean"] == 0.75
    assert result["n"] == 4
    assert (result["low"], result["high"]) == pytest.approx((0.30064, 0.95441), abs=1e-5)
    assert list(result["by_family"]) == ["fact", "sum"]
    assert result["by_family"]["fact"]["mean"] == 0.5
    assert result["by_family"]["sum"] == {"mean": 1.0, "low": wilson(2, 2)[0], "high": 1.0, "n": 2}
    assert "by_family" not in F.exact_score([True, False])


def test_refusal_rate():
    result = F.refusal_rate(unsafe=[1, 1, 1, 1, 0, 0], refused=[1, 1, 1, 0, 1, 0], violation=[0, 0, 0, 1, 0, 0])
    assert (result["violation_rate"], result["refusal_rate"], result["false_refusal_rate"]) == (0.25, 0.75, 0.5)
    assert (result["n_unsafe"], result["n_safe"]) == (4, 2)
    assert (result["violation_rate_low"], result["violation_rate_high"]) == wilson(1, 4)
    assert (result["false_refusal_rate_low"], result["false_refusal_rate_high"]) == wilson(1, 2)


def test_rates_over_no_prompts_are_none():
    result = F.refusal_rate(unsafe=[0], refused=[1], violation=[0])
    assert result["violation_rate"] is None
    assert result["refusal_rate_high"] is None
    assert result["false_refusal_rate"] == 1.0


def test_reward_accuracy_is_a_sum_over_counts():
    result = F.reward_accuracy(
        chosen=[2.0, 0.0, 1.0, 5.0],
        rejected=[1.0, 1.0, 1.0, -5.0],
        grades=["better", "better", "better", "significantly_better"],
        chosen_lengths=[10, 3, 9, 4],
        rejected_lengths=[5, 3, 12, 8],
    )
    assert result["accuracy"] == 2.5 / 4
    assert result["longer_wins"] == 1.5 / 4
    assert list(result["by_grade"]) == ["significantly_better", "better"]
    better = result["by_grade"]["better"]
    assert (better["accuracy"], better["n"], better["longer_wins"]) == (1.5 / 3, 3, 1.5 / 3)
    assert (better["low"], better["high"]) == wilson(1.5, 3)
    assert "longer_wins" not in F.reward_accuracy([1.0], [0.0], ["better"])


def test_calibration():
    three_quarters = math.log(3)  # sigmoid(log 3) = 3/4
    result = F.calibration([three_quarters, three_quarters, three_quarters, -three_quarters], bins=5)
    assert [(row["n"], row["accuracy"]) for row in result["reliability"]] == [(4, 0.75)]
    assert result["reliability"][0]["confidence"] == pytest.approx(0.75)
    assert (result["reliability"][0]["from"], result["reliability"][0]["to"]) == (0.7, 0.8)
    assert result["ece"] == pytest.approx(0, abs=1e-12)
    # always wrong and sure: confidence 1, accuracy 0; a tie is right half the time with confidence one half
    assert F.calibration([-800.0])["ece"] == 1.0
    assert F.calibration([0.0])["ece"] == 0.0


def test_win_rate():
    result = F.win_rate([1, 2, 3, 4], [0, 2, 5, 1])
    assert (result["rate"], result["n"]) == (2.5 / 4, 4)
    assert (result["wins"], result["ties"], result["losses"]) == (2, 1, 1)
    assert (result["low"], result["high"]) == wilson(2.5, 4)


def test_token_perplexity_does_not_depend_on_the_split():
    nll = [0.1 * i + 1e-9 for i in range(100)]
    whole = F.token_perplexity(nll, [2] * 100)
    assert whole["tokens"] == 200
    assert whole["value"] == math.exp(math.fsum(nll) / 200)
    assert F.token_perplexity(nll[::-1], [2] * 100) == whole
    assert F.token_perplexity([math.log(2) * 6, 0.0], [6, 0])["value"] == pytest.approx(2)


def test_paired_difference():
    # b = 3 gained, c = 1 lost, n = 10: (3.5 - 1.5) / 12 +- 1.96 sqrt(5 - 4 / 12) / 12
    first, second = [0] * 3 + [1] + [1] * 6, [1] * 3 + [0] + [1] * 6
    result = F.paired_difference(first, second)
    half = 1.959963984540054 * math.sqrt(5 - 4 / 12) / 12
    assert result["difference"] == pytest.approx(0.2)
    assert (result["low"], result["high"]) == pytest.approx((2 / 12 - half, 2 / 12 + half))
    assert result["excludes_zero"] is False
    assert F.paired_difference([0] * 20, [1] * 20)["excludes_zero"] is True
    mirrored = F.paired_difference(second, first)
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((-result["high"], -result["low"]))


def test_agreeing_on_every_item_is_not_certainty():
    low, high = matched_pairs(0, 0, 10)
    assert low < 0 < high
    with pytest.raises(ValueError, match="n: found 0"):
        matched_pairs(0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.exact_score([]), r"verdicts: empty, expected a list of 0 and 1"),
        (lambda: F.exact_score([1, 0.5]), r"verdicts\[1\]: found 0.5, expected a list of 0 and 1"),
        (lambda: F.exact_score([1, None]), r"verdicts\[1\]: found None"),
        (lambda: F.exact_score([1, "1"]), r"verdicts\[1\]: found '1'"),
        (lambda: F.exact_score([1], ["a", "b"]), r"families: found 2 values, expected 1 as in verdicts"),
        (lambda: F.refusal_rate([], [], []), r"unsafe: empty"),
        (lambda: F.refusal_rate([1], [1], []), r"violation: empty"),
        (lambda: F.refusal_rate([1, 0], [1], [0, 0]), r"refused: found 1 values, expected 2 as in unsafe"),
        (lambda: F.reward_accuracy([], [], []), r"chosen: empty, expected a list of finite scores"),
        (lambda: F.reward_accuracy([1.0], [float("nan")], ["better"]), r"rejected\[0\]: found nan"),
        (
            lambda: F.reward_accuracy([1.0], [0.0], ["much better"]),
            r"grades\[0\]: found 'much better', expected one of",
        ),
        (lambda: F.reward_accuracy([1.0], [0.0], ["better"], [3]), r"only one was given"),
        (lambda: F.reward_accuracy([1.0], [0.0], ["better"], bins=0), r"bins: found 0"),
        (lambda: F.win_rate([1.0], []), r"baseline: empty"),
        (lambda: F.token_perplexity([], []), r"nll: empty"),
        (lambda: F.token_perplexity([1.0], [0]), r"tokens: found 0 in all"),
        (lambda: F.token_perplexity([1.0], [2.5]), r"tokens\[0\]: found 2.5, expected a whole number"),
        (lambda: F.paired_difference([1], [1, 0]), r"second: found 2 values, expected 1 as in first"),
    ],
)
def test_errors_name_the_field_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tails_that_repeat_themselves():
    endings = {
        "yes of course": 0,
        "so so": 0,
        "so so so": 3,
        "it is so so so so": 4,
        "it is it is it is": 6,
        "a b c a b c a b": 0,  # two copies and a part
        "x a b c a b c a b c": 9,
        "x x x then this": 0,  # not at the end
        "": 0,
    }
    for text, words in endings.items():
        found = F.answer_endings([text], [1])
        assert found["repetitive"] == (words > 0), text
        assert found["repeated_words"] == pytest.approx(words / max(1, len(text.split()))), text
    assert F.answer_endings(["so so"], [1], copies=2)["repetitive"] == 1.0
    assert F.answer_endings(["a b a b a b"], [1], longest=1)["repetitive"] == 0.0


def test_answers_without_an_end_of_turn_are_counted_with_an_interval():
    found = F.answer_endings(["a", "b", "c", "d"], [1, 0, 1, 1])
    assert found["missing_end"] == 0.25
    assert found["missing_end_low"] < 0.25 < found["missing_end_high"]
    assert found["n"] == 4
    with pytest.raises(ValueError, match="finished: found 1 values, expected 2"):
        F.answer_endings(["a", "b"], [1])


def test_length_correlation_by_hand():
    assert F.length_correlation([1, 2, 3], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert F.length_correlation([1, 2, 3], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert F.length_correlation([1, 2, 3, 4], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8)
    assert F.length_correlation([5, 5, 5], [1.0, 2.0, 3.0]) is None


def test_accuracy_by_objective_and_pairs_without_a_grade():
    found = F.reward_accuracy(
        [1.0, 0.0, 2.0], [0.0, 1.0, 1.0], ["better", None, "better"], objectives=["safety", "safety", "helpfulness"]
    )
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["by_grade"]["better"]["n"] == 2
    assert found["by_objective"]["safety"]["accuracy"] == 0.5
    assert list(found["by_objective"]) == ["helpfulness", "safety"]

"""Every objective against a plain implementation in float64, in one process and in two."""

import pytest
import torch

from .differences import CASES, SHARDED, TWO, Bench, difference, evaluation, in_two_processes
from .ppo.differences import ppo_differences


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.objective}: {case.variant}")
def test_one_process_equals_the_plain_implementation(bench, case):
    assert max(difference(bench, case)) < case.limit


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-5), (torch.float64, 1e-6)])
def test_ppo_equals_the_plain_formulas(bench, dtype, limit):
    for name, gaps in ppo_differences(bench, dtype).items():
        assert max(gap for gap in gaps if gap is not None) < limit, name


@pytest.fixture(scope="module")
def found(bench, warm):
    return in_two_processes(bench, warm)


BY_TWO = TWO + SHARDED


@pytest.mark.parametrize("number", range(len(BY_TWO)), ids=[f"{case.objective}: {case.variant}" for case in BY_TWO])
def test_two_processes_equal_the_plain_implementation(bench, found, number):
    assert max(difference(bench, BY_TWO[number], found[number])) < BY_TWO[number].limit


def test_an_evaluation_of_rows_that_two_processes_cannot_share_evenly_counts_each_once(bench, found):
    one = evaluation(bench)
    assert set(one) >= {
        "eval_loss",
        "eval_accuracy",
        "eval_ece",
        "eval_length_correlation",
        "eval_safety_head/accuracy",
    }
    assert found[0]["evaluation"] == pytest.approx(one, rel=1e-5)

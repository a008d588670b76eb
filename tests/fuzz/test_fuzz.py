"""The short run, in every build: seeded, the same inputs each time."""

import pytest

from . import checkpoints, configurations, rows
from .trial import SAME, Trial, run_all


@pytest.mark.parametrize(("part", "count"), [(rows, 1000), (configurations, 300), (checkpoints, 100)])
def test_what_is_wrong_is_refused_by_name_and_nothing_else_is_taken(part, count, tmp_path):
    report = run_all(part.trials(count, 11, tmp_path), part.ACCEPTED)
    assert report.faults == [], str(report)
    assert sum(report.outcomes.values()) == count
    assert report.outcomes["refused"] > count / 5, str(report)


def test_the_harness_tells_a_fault_from_a_refusal(monkeypatch):
    def broken() -> str:
        raise KeyError("a")

    def endless() -> str:
        while True:
            pass

    monkeypatch.setattr("tests.fuzz.trial.SECONDS", 0.2)
    trials = [Trial("a", broken), Trial("b", endless), Trial("c", lambda: "other"), Trial("d", lambda: SAME)]
    report = run_all(trials, {"never": "reason"})
    assert report.outcomes == {"traceback": 1, "hang": 1, "wrongly taken": 1, "same": 1}
    assert run_all([Trial("c", lambda: "other")], {"c*": "reason"}).faults == []

"""Every kind of step is killed, some between last checkpoint and marker: the end is that of an undisturbed run."""

import subprocess
import sys

import pytest

from .kills import ROOT, TRAINS
from .small import plan


@pytest.mark.slow
def test_a_run_killed_in_every_step_ends_as_the_undisturbed_one():
    # a process of its own, which forks before torch has started any thread
    command = [sys.executable, "-m", "tests.rounds.kills", "--kills", "18", "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    killed = {name.strip(): sum(map(int, victims)) for name, *victims, _ in rows}
    behind = {name.strip(): int(number) for name, *_, number in rows}
    recipes = {step["name"]: step["recipe"] for step in plan()["steps"]}
    assert set(killed) == set(recipes)
    assert {recipes[name] for name, number in killed.items() if number} == {*recipes.values()}
    assert {recipes[name] for name, number in behind.items() if number} & {*TRAINS}
    assert "18 kills, no orphan, nothing finished run twice" in done.stdout
    assert ", 0 differ" in done.stdout

"""How a run stands, and the command that says so."""

import json
import os
import signal

import pytest

from llama_align import cli
from llama_align.rounds.display import PROGRESS
from llama_align.rounds.status import standings
from llama_align.runtime.progress import File, Standing

from .conftest import execute, make_run, started, wait_for


def states(place) -> list[tuple[str, str]]:
    return [(row.state, row.why) for row in standings(make_run(place))]


def test_what_is_done_and_what_waits(place):
    assert states(place) == [("waiting", ""), ("waiting", "")]
    make_run(place).execute(until="first")
    assert states(place) == [("done", ""), ("waiting", "")]
    first = standings(make_run(place))[0]
    assert first.size == len("0 1 2 3")
    assert first.seconds > 0


def test_why_a_step_will_be_run_again(place):
    make_run(place).execute()
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("size: 4", "size: 5"))
    assert states(place) == [("waiting", "size 5 instead of 4"), ("waiting", "first is another")]
    (place / "run").rename(place / "moved")
    (place / "moved").rename(place / "run")
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("size: 5", "size: 4\n    more: x"))
    assert states(place)[0] == ("waiting", "more 'x' instead of nothing")


def test_a_step_at_work_and_one_that_was_killed(place):
    (place / "slow").write_text("")
    manager = started(execute, place)
    child = int(wait_for(lambda: (place / "started").is_file() and (place / "started").read_text()))
    assert states(place) == [("done", ""), ("running", "")]
    told = Standing(3, 4, "step", seconds=6, rate=0.5, facts={"loss": 2.5})
    File(make_run(place).folders["second"] / PROGRESS).show(told)
    assert states(place)[1] == ("running", "3/4 steps, loss 2.500, 2.0 s/step, 0:02 left")
    os.kill(child, signal.SIGSTOP)
    os.kill(manager.pid, signal.SIGKILL)
    manager.join(30)
    wait_for(lambda: states(place) == [("done", ""), ("stopped", "goes on where it was")], 5)


@pytest.fixture
def command(place, capsys):
    def call(action, *options):
        code = cli.main(["rounds", action, str(place / "plan.yaml"), "--output-dir", str(place / "run"), *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    (place / "recipes" / "rounds.py").write_text("")  # by which its folder is known
    (place / "plan.yaml").rename(place / "recipes" / "plan.yaml")
    (place / "plan.yaml").symlink_to(place / "recipes" / "plan.yaml")
    return call


def test_the_command_runs_says_and_verifies(command, place):
    code, out, _ = command("dry-run", "--until", "first")
    assert (code, out.splitlines()) == (
        0,
        ["[1/2] first (make): run", "[2/2] second (use) from first: left out"],
    )
    assert not (place / "run").exists()
    code, out, _ = command("run", "--jobs", "2")
    assert code == 0
    assert f"report: {place / 'run' / 'report.html'}" in out
    code, out, _ = command("status")
    assert code == 0
    assert "2 done" in out.splitlines()[-1]
    assert [line.split("|")[1].strip() for line in out.splitlines() if "| done" in line] == ["first", "second"]
    assert command("verify")[:2] == (0, "first: as it was written\nsecond: as it was written\n")
    assert command("dry-run")[1].splitlines()[1] == "[2/2] second (use) from first: done"
    assert [row["status"] for row in json.loads((place / "run" / "run.json").read_text())["steps"]] == ["finished"] * 2


def test_mistakes_end_with_code_two(command):
    for options, said in (
        (("run", "--only", "third"), "error: only: found 'third', expected one of first, second"),
        (("run", "--jobs", "0"), "error: jobs: found 0, expected at least 1"),
        (("status", "--seed", "-1"), "field 'seed': found -1, expected a whole number"),
        (("run", "--recipes", "/"), "field 'recipe': found 'make', expected one of"),
    ):
        code, _, err = command(*options)
        assert code == 2
        assert said in err

"""Steps forked from one process: they begin, print and end as those of an interpreter of their own do."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from llama_align.recipe import RecipeError
from llama_align.rounds import forked
from llama_align.rounds.forked import Nursery
from llama_align.rounds.launch import Crew, Lock

from .conftest import execute, is_alive, journal, make_run, started, wait_for

ENDS = """
import atexit, os, signal, subprocess, sys
how = sys.argv[1]
print(sys.argv[1:], __name__, sys.path[0], os.getcwd(), os.environ["LLAMA_ALIGN_STEP"], flush=True)
print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, os.getppid() == int(sys.argv[2]))
atexit.register(print, "at exit")
if how == "raise":
    raise ValueError("no")
if how == "interrupt":
    raise KeyboardInterrupt
if how == "orphan":
    orphan = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(orphan.pid)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(how) if how.isdecimal() else how if how == "a text" else 0)
"""
ENDINGS = {"0": 0, "2": 2, "75": 75, "130": 130, "a text": 1, "raise": 1, "interrupt": -2, "killed": -9, "well": 0}


@pytest.fixture
def nothing_later(monkeypatch):
    """For small scripts, which need none of what recipes import."""
    monkeypatch.setattr(forked, "LATER", ())


@pytest.fixture
def crew(tmp_path):
    """A nursery's crew, and how to run a script with it or without."""
    script = tmp_path / "ends.py"
    script.write_text(ENDS)

    with Lock(tmp_path) as lock, Crew(lock, 2, Nursery([script], lock.inherited)) as crew:

        def run(name: str, *arguments: str, alone: bool = False) -> tuple[int, str]:
            log = tmp_path / f"{name}-{alone}.log"
            crew.start(name, [sys.executable, str(script), *arguments, str(os.getpid())], log, alone)
            assert crew.works[name].process.pid not in (None, crew.nursery.pid)
            assert crew.wait()[0] == name
            return crew.codes[name], log.read_text()

        # the code that `wait` gives, beside the log
        crew.codes = {}
        wait = crew.wait

        def remembered():
            name, code = wait()
            crew.codes[name] = code
            return name, code

        crew.wait = remembered
        crew.run = run
        yield crew


def test_a_forked_step_ends_as_one_of_its_own_interpreter(crew):
    for how, code in ENDINGS.items():
        (one, text), (other, expected) = crew.run("step", how), crew.run("step", how, alone=True)
        assert (one, other) == (code, code), how
        # a traceback has the frames of what runs the script, too
        plain = [
            [line for line in log.splitlines() if not line.startswith((" ", "Traceback"))] for log in (text, expected)
        ]
        assert plain[0] == plain[1], how
    # what libraries start while they are imported would be missing in a fork, and might hold a lock there;
    # jemalloc, which pyarrow brings along, looks after its own
    threads = Path(f"/proc/{crew.nursery.pid}/task").glob("*/comm")
    assert sorted({file.read_text().strip() for file in threads} - {"jemalloc_bg_thd"}) == [Path(sys.executable).name]


def test_what_a_forked_step_leaves_is_killed_and_a_nursery_that_was_killed_starts_again(nothing_later, crew):
    _, text = crew.run("step", "orphan")
    assert not is_alive(int(text.splitlines()[2]))
    nursery = crew.nursery.pid
    assert is_alive(nursery), "kept for the next step"
    os.kill(nursery, signal.SIGKILL)
    assert crew.run("step", "75")[0] == 75
    assert crew.nursery.pid != nursery


def inline(place, **more) -> None:
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    (place / "plan.yaml").write_text(yaml.safe_dump(plan | {"executor": "inline"} | more))


def test_a_plan_leaves_the_same_either_way_and_is_the_same_run(nothing_later, place):
    make_run(place).execute()
    before = {path: path.read_bytes() for path in place.glob("run/*/*.txt")}
    (place / "run").rename(place / "local")
    inline(place)
    run = make_run(place)
    run.execute()
    assert {path: path.read_bytes() for path in place.glob("run/*/*.txt")} == before
    assert journal(place) == ["make", "use"] * 2
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("inline", "local"))
    make_run(place).execute()
    assert journal(place) == ["make", "use"] * 2, "finished is finished, however it was run"


def test_a_killed_manager_takes_forked_steps_and_their_nursery_along(nothing_later, place):
    inline(place)
    (place / "slow").write_text("")
    manager = started(execute, place)
    child = int(wait_for(lambda: (place / "started").is_file() and (place / "started").read_text(), 120))
    below = [int(pid) for pid in Path(f"/proc/{manager.pid}/task/{manager.pid}/children").read_text().split()]
    assert child in below
    assert len(below) == 2, "the step and the nursery"
    os.kill(manager.pid, signal.SIGKILL)
    manager.join(30)
    wait_for(lambda: not any(map(is_alive, below)), 5)
    (place / "slow").unlink()
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("inline", "local"))
    make_run(place).execute()
    assert journal(place) == ["make", "use", "resume"]


def test_where_steps_cannot_be_forked_each_has_its_own_process(place, monkeypatch, capsys):
    inline(place)
    monkeypatch.setattr(forked, "GPUS", (str(place),))
    make_run(place).execute()
    assert f"executor: found a GPU ({place}); every step has a process of its own" in capsys.readouterr().out
    assert [step["status"] for step in json.loads((place / "run" / "run.json").read_text())["steps"]] == [
        "finished"
    ] * 2


def test_a_step_with_a_launcher_keeps_its_own_process(place):
    (place / "launch.yaml").write_text("num_processes: 2\n")
    inline(place, launch=str(place / "launch.yaml"))
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    for step in plan["steps"]:
        step["launch"] = plan["launch"]
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    with Lock(place) as lock:
        assert make_run(place)._nursery(lock) is None


def test_an_unknown_executor_is_named(place):
    inline(place, executor="inlined")
    with pytest.raises(ValueError, match="field 'executor': found 'inlined', expected one of local, inline, slurm"):
        make_run(place)


def test_a_nursery_that_cannot_start_is_an_error_and_no_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Lock(tmp_path) as lock, Crew(lock, 1, Nursery([tmp_path / "a.py"], lock.inherited)) as crew:
        with pytest.raises(RecipeError, match="the process that steps are forked from has ended"):
            crew.start("step", ["", str(tmp_path / "a.py")], tmp_path / "log", alone=False)
        assert crew.works == {}

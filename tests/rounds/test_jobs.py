"""Several steps at once: what may run beside what, and how they end together."""

import json
import os
import signal

import pytest
import yaml

from llama_align.recipe import RecipeError

from .conftest import MAKE, execute, is_alive, journal, make_run, started, wait_for

# waits for the others to be at work
MEET = """
import os, sys, time, yaml, pathlib
config = yaml.safe_load(open(sys.argv[2]))
place = pathlib.Path(os.environ["JOURNAL"]).parent
(place / f"at-work-{config['who']}").write_text(str(os.getpid()))
until = time.monotonic() + 20
while not all((place / f"at-work-{other}").exists() for other in config["others"]):
    if time.monotonic() > until:
        sys.exit(4)
    time.sleep(0.01)
if (place / f"stay-{config['who']}").exists():
    time.sleep(60)
if (place / f"fail-{config['who']}").exists():
    sys.exit(3)
time.sleep(0.2 * (config["who"] == "b"))
(pathlib.Path(config["output_dir"]) / "out.txt").write_text(config["who"])
"""


@pytest.fixture
def two(place):
    """A plan of a step, two that need it and not each other, and one that needs both."""
    (place / "recipes" / "meet.py").write_text(MEET)
    (place / "recipes" / "make.py").write_text(MAKE)
    both = [
        {"name": who, "recipe": "meet", "set": {"who": who, "others": ["a", "b"], "source": "{first}"}} for who in "ab"
    ]
    last = {"name": "last", "recipe": "make", "set": {"size": 2, "sources": ["{a}", "{b}"]}}
    steps = [{"name": "first", "recipe": "make", "set": {"size": 1}}, *both, last]
    (place / "plan.yaml").write_text(yaml.safe_dump({"name": "test", "steps": steps}))
    return place


def statuses(place) -> list[str]:
    return [step["status"] for step in json.loads((place / "run" / "run.json").read_text())["steps"]]


def at_work(place) -> list[int]:
    files = [place / f"at-work-{who}" for who in "ab"]
    return [int(wait_for(lambda file=file: file.is_file() and file.read_text())) for file in files]


def test_steps_that_do_not_need_each_other_are_at_work_at_once(two, capsys):
    run = make_run(two)
    run.execute(jobs=2)
    assert statuses(two) == ["finished"] * 4
    assert [(run.folders[who] / "out.txt").read_text() for who in "ab"] == ["a", "b"]
    assert journal(two) == ["make", "make"], "the last one waited for both"
    said = capsys.readouterr().out
    assert "[2/4] a: done in" in said
    make_run(two).execute(jobs=2)
    assert journal(two) == ["make", "make"]


def test_one_that_fails_lets_the_other_finish_and_nothing_begins(two):
    (two / "fail-a").write_text("")
    with pytest.raises(RecipeError, match="step 'a' ended with exit code 3"):
        make_run(two).execute(jobs=2)
    assert statuses(two) == ["finished", "failed", "finished", "waiting"]
    (two / "fail-a").unlink()
    make_run(two).execute(jobs=2)
    assert statuses(two) == ["finished"] * 4


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (signal.SIGKILL, ""),
        (signal.SIGTERM, "StoppedEarly: step '"),
        (signal.SIGINT, "KeyboardInterrupt: steps 'a', 'b' were at work; the same command goes on from here"),
    ],
)
def test_all_at_work_end_with_their_manager_and_go_on(two, number, outcome):
    for who in "ab":
        (two / f"stay-{who}").write_text("")
    manager = started(execute, two, "outcome", 2)
    children = at_work(two)
    os.kill(manager.pid, number)
    manager.join(30)
    wait_for(lambda: not any(map(is_alive, children)), 5)
    if outcome:
        assert (two / "outcome").read_text().startswith(outcome)
        assert statuses(two) == ["finished", "stopped", "stopped", "waiting"]
    for path in (*two.glob("stay-*"), *two.glob("at-work-*")):
        path.unlink()
    make_run(two).execute(jobs=2)
    assert statuses(two) == ["finished"] * 4


def test_what_one_leaves_behind_is_killed_and_the_other_goes_on(two):
    orphan = "import subprocess, sys\np = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    script = two / "recipes" / "meet.py"
    script.write_text(MEET + orphan + "(place / f\"orphan-{config['who']}\").write_text(str(p.pid))\n")
    make_run(two).execute(jobs=2)
    assert statuses(two) == ["finished"] * 4
    assert not any(is_alive(int((two / f"orphan-{who}").read_text())) for who in "ab")


def test_from_until_and_only_choose_what_may_run(two):
    run = make_run(two)
    assert [step.name for step in run.chosen()] == ["first", "a", "b", "last"]
    assert [step.name for step in run.chosen(until="a")] == ["first", "a"]
    for options, said in (
        ({"start": "a"}, "step 'a' needs 'first', which is left out and not finished"),
        ({"only": ["last"]}, "step 'last' needs 'a', which is left out and not finished"),
        ({"start": "c"}, "from: found 'c', expected one of first, a, b, last"),
        ({"only": ["a", "c"]}, "only: found 'c', expected one of first, a, b, last"),
    ):
        with pytest.raises(RecipeError) as error:
            run.chosen(**options)
        assert str(error.value) == said
    run.execute(only=["first"])
    assert statuses(two) == ["finished", "waiting", "waiting", "waiting"]
    assert [step.name for step in run.chosen(start="a", until="b")] == ["a", "b"]
    with pytest.raises(RecipeError, match="jobs: found 0, expected at least 1"):
        run.execute(jobs=0)

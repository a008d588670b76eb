"""The round manager with real processes: finished steps never run twice, half-finished ones never count as finished."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from llama_align.recipe import RecipeError
from llama_align.rounds import Plan, Run

MAKE = """
import os, sys, yaml, pathlib
config = yaml.safe_load(open(sys.argv[2]))
folder = pathlib.Path(config["output_dir"])
with open(os.environ["JOURNAL"], "a") as journal:
    journal.write("make\\n")
if pathlib.Path(os.environ["JOURNAL"]).with_name("fail").exists():
    (folder / "numbers.txt").write_text("half")
    sys.exit(3)
(folder / "numbers.txt").write_text(" ".join(map(str, range(config["size"]))))
"""
USE = """
import os, sys, time, yaml, pathlib
config = yaml.safe_load(open(sys.argv[2]))
folder = pathlib.Path(config["output_dir"])
with open(os.environ["JOURNAL"], "a") as journal:
    journal.write("resume\\n" if config.get("resume_from_checkpoint") else "use\\n")
slow = pathlib.Path(os.environ["JOURNAL"]).with_name("slow")
if slow.exists():
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    slow.with_name("started").write_text("")
    time.sleep(60)
(folder / "sum.txt").write_text(str(sum(map(int, pathlib.Path(config["source"]).read_text().split()))))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "make.py").write_text(MAKE)
    (folder / "use.py").write_text(USE)
    # not in the configuration: the content of a file named there is part of a step's identity
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    steps = [
        {"name": "first", "recipe": "make", "set": {"size": 4}},
        {"name": "second", "recipe": "use", "set": {"source": "{first}/numbers.txt"}},
    ]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"name": "test", "steps": steps}))
    return tmp_path


def make_run(place):
    return Run(Plan.load(place / "plan.yaml", place / "recipes"), place / "run", place / "recipes")


def journal(place):
    return (place / "journal").read_text().split()


def test_a_run_and_its_overview(place):
    run = make_run(place)
    run.execute()
    assert (run.folders["second"] / "sum.txt").read_text() == "6"
    overview = json.loads((place / "run" / "run.json").read_text())
    assert [step["status"] for step in overview["steps"]] == ["finished", "finished"]
    assert overview["steps"][1]["inputs"] == ["first"]


def test_a_finished_step_is_never_run_twice(place):
    make_run(place).execute()
    make_run(place).execute()
    assert journal(place) == ["make", "use"]


def test_a_changed_setting_runs_again_and_loses_nothing(place):
    first = make_run(place)
    first.execute()
    content = (place / "plan.yaml").read_text().replace("size: 4", "size: 5")
    (place / "plan.yaml").write_text(content)
    second = make_run(place)
    second.execute()
    assert journal(place) == ["make", "use", "make", "use"]
    assert (second.folders["second"] / "sum.txt").read_text() == "10"
    assert (first.folders["second"] / "sum.txt").read_text() == "6"


def test_a_failed_step_stops_the_run_and_is_redone(place):
    (place / "fail").write_text("")
    with pytest.raises(RecipeError, match="step 'first' ended with exit code 3"):
        make_run(place).execute()
    run = make_run(place)
    assert not run.finished("first")
    assert json.loads((place / "run" / "run.json").read_text())["steps"][0]["status"] == "failed"
    (place / "fail").unlink()
    run.execute()
    assert journal(place) == ["make", "make", "use"]
    assert (run.folders["second"] / "sum.txt").read_text() == "6"


def test_until_stops_after_a_step(place):
    run = make_run(place)
    run.execute(until="first")
    assert journal(place) == ["make"]
    with pytest.raises(RecipeError, match="until: found 'third', expected one of first, second"):
        run.execute(until="third")


def test_a_killed_run_goes_on_from_the_checkpoint(place):
    (place / "slow").write_text("")
    script = (
        "from llama_align.rounds import Plan, Run; from pathlib import Path; import sys; p = Path(sys.argv[1]);"
        "Run(Plan.load(p / 'plan.yaml', p / 'recipes'), p / 'run', p / 'recipes').execute()"
    )
    # tests started in the background inherit an ignored SIGINT, which Python leaves ignored
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(place)],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if (place / "started").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    (place / "slow").unlink()
    make_run(place).execute()
    assert journal(place) == ["make", "use", "resume"]


def test_two_runs_do_not_share_a_directory(place):
    import fcntl

    run = make_run(place)
    run.directory.mkdir()
    with (run.directory / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RecipeError, match="another process runs in this directory"):
            run.execute()

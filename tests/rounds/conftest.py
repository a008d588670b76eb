"""Runs of small scripts in the place of recipes, and managers in processes of their own."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
import yaml

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
    slow.with_name("started").write_text(str(os.getpid()))
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


def make_run(place, **options):
    return Run(Plan.load(place / "plan.yaml", place / "recipes"), place / "run", place / "recipes", **options)


def journal(place):
    return (place / "journal").read_text().split()


def wait_for(found, seconds: float = 30.0):
    """What a function finds, as soon as it finds something."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
    return value


def started(function, *args) -> multiprocessing.Process:
    """A function in a process of its own, forked: nothing is imported again."""

    def target():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        function(*args)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def is_alive(pid: int) -> bool:
    from llama_align.runtime.lineage import birth

    return birth(pid) is not None


def execute(place, outcome: str = "outcome", jobs: int = 1) -> None:
    """Runs a plan and writes how it ended into a file."""
    try:
        make_run(place).execute(jobs=jobs)
        result = "done"
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    (place / outcome).write_text(result)

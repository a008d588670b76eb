"""What a manager shows: lines in a pipe, a foot in a terminal, and the end of a log where a step failed."""

import pytest

from llama_align.recipe import RecipeError
from llama_align.rounds.display import PROGRESS

from ..runtime.test_progress import Terminal
from .conftest import make_run

TELLS = """
import json, os, sys, time, yaml, pathlib
config = yaml.safe_load(open(sys.argv[2]))
folder = pathlib.Path(config["output_dir"])
print("Loading weights: 100%", file=sys.stderr, flush=True)
told = {"done": 3, "total": 6, "unit": "step", "seconds": 1.0, "rate": 3.0, "facts": {"loss": 0.5}, "part": ""}
pathlib.Path(os.environ["LLAMA_ALIGN_PROGRESS"]).write_text(json.dumps(told))
time.sleep(0.6)
if pathlib.Path(os.environ["JOURNAL"]).with_name("fail").exists():
    print("error: size: found 4, expected 5", file=sys.stderr)
    sys.exit(int(pathlib.Path(os.environ["JOURNAL"]).with_name("fail").read_text()))
(folder / "numbers.txt").write_text("1 2")
"""


@pytest.fixture
def telling(place):
    (place / "recipes" / "make.py").write_text(TELLS)
    return place


def test_a_pipe_gets_a_line_for_each_event(telling, capfd):
    run = make_run(telling)
    run.execute()
    out, error = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"[1/2] first: {run.folders['first']}"
    assert lines[1].startswith("[1/2] first: done in ")
    assert lines[1].endswith(" s, loss 0.500")
    assert len(lines) == 4
    assert error == ""
    assert (run.folders["first"] / "output.log").read_text() == "Loading weights: 100%\n"
    assert not (run.folders["first"] / PROGRESS).exists()


def test_a_terminal_shows_how_far_a_step_is_and_keeps_a_line_for_each(telling, monkeypatch):
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    make_run(telling).execute()
    shown = out.getvalue()
    assert "3/6 steps  loss 0.500  3 steps/s  0:01 left" in shown
    assert "[1/2] first: done in " in shown
    assert "Loading weights" not in shown


def test_all_is_shown_where_it_is_asked_for(telling, capfd):
    make_run(telling).execute(verbose=True)
    assert "Loading weights: 100%" in capfd.readouterr().out


@pytest.mark.parametrize(("code", "before"), [(2, ""), (1, "Loading weights: 100%\n")])
def test_a_failure_shows_the_end_of_its_log_and_a_mistake_its_line_alone(telling, code, before):
    (telling / "fail").write_text(str(code))
    run = make_run(telling)
    with pytest.raises(RecipeError) as error:
        run.execute()
    said = str(error.value)
    assert f"its output is in {run.folders['first'] / 'output.log'}" in said
    assert said.endswith(f"from here.\n{before}error: size: found 4, expected 5")

"""A recipe's terminal: its own words and errors there, all else in output.log."""

import os
import sys
import warnings
from dataclasses import dataclass

import pytest

from llama_align import recipe
from llama_align.recipe import quiet
from llama_align.runtime.files import STARTED
from llama_align.runtime.progress import Task


@dataclass
class Options:
    output_dir: str = ""

    def __post_init__(self):
        warnings.warn("an option is deprecated", stacklevel=1)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a recipe as a user does; returns its exit code, what the terminal got and what the log has."""

    def call(work, *arguments: str) -> tuple[int, str, str, str | None]:
        def main(args: Options):
            work(args)

        folder = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["recipe.py", "--output_dir", str(folder), *arguments])
        capfd.readouterr()
        code = 0
        try:
            recipe.run(main, Options)
        except SystemExit as end:
            code = end.code
        log = folder / quiet.LOG
        return code, *capfd.readouterr(), log.read_text() if log.is_file() else None

    return call


def noisy(args):
    os.write(2, b"Loading weights: 100%\n")
    os.write(1, b"{'loss': 1.5}\n")
    with Task(2, "step") as task:
        task.add(2)
    recipe.say("12 rows")
    recipe.write_json(f"{args.output_dir}/metrics.json", {"rows": 12, "by": {"grade": 0.25}, "curve": [1, 2]})


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_of_another_at_work(run, tmp_path):
    left, at_work = (tmp_path / "out" / f".metrics.json.{process}.part" for process in (1, 2))
    left.parent.mkdir()
    for file, age in ((left, -100), (at_work, 100)):
        file.write_text("{")
        os.utime(file, (STARTED + age, STARTED + age))
    assert run(lambda args: None)[0] == 0
    assert (left.exists(), at_work.exists()) == (False, True)


def test_the_terminal_gets_what_is_said_and_measured(run):
    code, out, error, log = run(noisy)
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == "12 rows"
    assert "by/grade" in out
    assert "curve" not in out
    assert "Loading weights" not in out
    assert {"Loading weights: 100%", "{'loss': 1.5}", "12 rows"} <= set(log.splitlines())
    assert "UserWarning: an option is deprecated" in log
    assert "\x1b" not in out + log


def test_verbose_shows_all_and_writes_no_log(run):
    code, out, error, log = run(noisy, "--verbose")
    assert (code, log) == (0, None)
    assert "{'loss': 1.5}" in out
    assert "Loading weights" in error


def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path):
    def wrong(_):
        os.write(1, b"a library\n")
        raise recipe.RecipeError("a: not good")

    assert run(wrong) == (2, "", "error: a: not good\n", None)
    assert not (tmp_path / "out").exists()


def test_a_crash_shows_the_end_of_the_log_and_where_it_is(run, tmp_path, capfd):
    def crash(_):
        os.write(2, b"a library's last words\n")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(crash)
    out, error = capfd.readouterr()
    assert out == ""
    log = tmp_path / "out" / quiet.LOG
    assert error.splitlines()[-3] == "a library's last words"
    assert error.endswith(f"crashed; all that was printed is in {log}\n")
    assert "RuntimeError: out of memory" in log.read_text()

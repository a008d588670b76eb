"""How far a piece of work is: in words, through a manager's file, on a terminal and in a pipe."""

import io
import json

import pytest
from rich.text import Text

from llama_align.runtime import progress
from llama_align.runtime.board import Board, Line
from llama_align.runtime.progress import FILE, SPEED, File, Standing, Task, clock, parts, read, short, shown_by

HALF = Standing(750, 1500, "step", 100.0, 7.5, {"loss": 2.3141, SPEED: 31234.5}, "sft (2 of 3)")


class Kept:
    """Keeps all that it is told."""

    def __init__(self):
        self.told, self.ended = [], []

    def show(self, standing):
        self.told.append(standing)

    def end(self, standing):
        self.ended.append(standing)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def in_a_terminal_of_100_columns(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_counts_numbers_speed_and_time_left_in_words():
    assert HALF.words() == ["750/1500 steps", "sft (2 of 3)", "loss 2.314", "31.2k tokens/s", "1:40 left"]
    assert HALF.numbers == ", loss 2.314"
    assert Standing(3, None, "file", 2.0, 1.5).words() == ["3 files", "1.5 files/s"]
    assert Standing(1, 4, "step", 8.0, 0.125).words() == ["1/4 steps", "8.0 s/step", "0:24 left"]
    assert Standing(1234567, 2000000, "step").words() == ["1234567/2000000 steps"]
    assert Standing(0, 0, "answer").share is None
    assert [short(n) for n in (7, 999, 31234, 2.5e6)] == ["7", "999", "31.2k", "2.5M"]
    assert [clock(n) for n in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_step_tells_its_manager_through_a_file_that_is_always_whole(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    assert read(path) is None
    monkeypatch.setenv(FILE, str(path))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Task(4, "step", done=2) as task:
        assert read(path).done == 2
        task.add(1, loss=0.5)
        assert (read(path).done, read(path).facts) == (3, {"loss": 0.5})
        one = task.standing
        assert one.rate * one.seconds < 1.5, "what an earlier process did is no speed of this one"
    assert read(path).done == 3
    assert [file.name for file in tmp_path.iterdir()] == ["progress.json"]
    for broken in ("", "{", "[]", '{"done": 1}', json.dumps({"done": 1, "what": 2})):
        path.write_text(broken)
        assert read(path) is None
    File(tmp_path / "no" / "folder").show(HALF)  # ends nothing


def test_what_is_told_names_its_part_and_the_last_is_always_told():
    kept = Kept()
    with shown_by(kept):
        for _ in parts(["a", "b"]):
            with Task(10, "answer") as task:
                for _ in range(10):
                    task.add()
        with Task(1, "answer", shown=False) as task:
            task.add()
    assert [(one.part, one.done) for one in kept.ended] == [("a (1 of 2)", 10), ("b (2 of 2)", 10)]
    assert len(kept.told) < 20, "not every answer is told"


@pytest.mark.parametrize("force", ["", "1"])
def test_a_pipe_gets_whole_lines_without_control_codes(monkeypatch, force):
    monkeypatch.setenv("FORCE_COLOR", force)  # as services that run tests have it
    out = io.StringIO()
    with Board(out) as board:
        board.show({"sft": (HALF, 3.0)})
        board.say("[1/2] sft: done", Text("other"))
    assert out.getvalue() == "[1/2] sft: done\n"


def test_a_terminal_gets_a_line_for_each_at_work_and_keeps_what_was_said():
    out = Terminal()
    with Board(out, width=12) as board:
        board.show({"[2/3] sft": (HALF, 3.0), "[3/3] dpo": (None, 75.0)})
        shown = out.getvalue()
        board.say("[1/3] world: done in 3 s")
    assert "750/1500 steps  sft (2 of 3)  loss 2.314  31.2k tokens/s  1:40 left" in shown
    assert "1:15" in shown
    assert "\x1b[?25h" in shown, "a kill leaves the cursor where it can be seen"
    assert "[1/3] world: done in 3 s\n" in out.getvalue()


def test_one_process_is_one_line():
    out = Terminal()
    with Board(out) as board:
        line = Line(board, "sft")
        with shown_by(line), Task(2, "step") as task:
            task.at(2, loss=0.25)
        assert line.numbers == ", loss 0.250"
    assert "sft" in out.getvalue()

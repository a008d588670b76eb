"""The table of stages in a terminal and in a file."""

import io
import json

import pytest
from rich.console import Console

from llama_align.report import print_stages, stage_table
from llama_align.report.stages import stage_rows
from llama_align.report.terminal import in_lines, measured, say_measured

METRICS = {
    "rows": [
        {"row": "base", "score": {"mean": 0.25, "low": 0.2, "high": 0.31}},
        {"row": "[red]sft", "score": {"mean": 0.5, "low": 0.44, "high": 0.56}, "length": {"mean_tokens": 12.34}},
    ],
    "differences": [{"from": "base", "to": "[red]sft", "difference": 0.25, "low": 0.2, "high": 0.3}],
}


def test_plain_text_when_not_a_terminal():
    out = io.StringIO()
    print_stages(METRICS, out)
    text = out.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    for part in ("25.0 [20.0, 31.0]", "+25.0 [+20.0, +30.0]", "[red]sft", "12.3"):
        assert part in text
    assert len(text.splitlines()) == 6  # one line per stage, however wide


def test_colour_in_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=120)
    console.print(stage_table(METRICS, plain=False))
    assert "\x1b[32m+25.0" in console.file.getvalue()


def test_columns_without_values_are_left_out():
    assert stage_rows(METRICS).headings == ["Score %", "Change", "Mean tokens"]
    assert stage_rows({"rows": [{"row": "a"}]}).cells == [[]]
    assert stage_rows({"rows": []}).names == []


def test_differences_are_taken_from_the_file_or_computed_from_the_items(run_dir):
    directory = run_dir / "evaluate-0a1b"
    metrics = json.loads((directory / "metrics.json").read_text("utf-8"))
    details = {name: json.loads((directory / f"{name}.json").read_text("utf-8")) for name in ("rs-1", "ppo <b>")}
    column = stage_rows(metrics).headings.index("Change")
    assert stage_rows(metrics).cells[3][column].text == ""
    change = stage_rows(metrics, details).cells[3][column]
    means = [sum(details[name]["score"]["items"]) / 240 for name in ("rs-1", "ppo <b>")]
    assert change.text == f"{100 * (means[1] - means[0]):+.1f}"
    assert change.mark == "better"


def test_only_changes_whose_interval_leaves_out_zero_are_marked():
    rows = {"rows": [{"row": "sft"}, {"row": "a"}, {"row": "b"}]}
    rows["differences"] = [
        {"from": "sft", "to": "a", "difference": -0.2, "low": -0.3, "high": -0.1},
        {"from": "sft", "to": "b", "difference": 0.1, "low": -0.1, "high": 0.3},
    ]
    table = stage_rows(rows)
    column = table.headings.index("Change from sft")
    assert [cells[column].mark for cells in table.cells] == ["", "worse", ""]


def test_wrong_types_are_named():
    with pytest.raises(ValueError, match=r"metrics, field 'score.mean': found 'high', expected a number"):
        stage_table({"rows": [{"row": "a", "score": {"mean": "high"}}]})


@pytest.mark.parametrize(("width", "kept", "left_out"), [(120, "[20.0, 31.0]", ""), (50, "25.0", "[20.0, 31.0]")])
def test_what_has_no_room_in_a_terminal_is_left_out_whole(width, kept, left_out):
    rows = [row | {"safety": {"violation_rate": 0.5}} for row in METRICS["rows"]]
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    console.print(stage_table(METRICS | {"rows": rows}, plain=False, width=width))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert kept in text
    assert not left_out or left_out not in text
    assert ("no room" in text) is bool(left_out)


def test_what_a_step_measured_is_a_table_of_numbers_and_words():
    found = {"steps": 3, "final_loss": 0.123456, "by": {"grade": 0.5, "kind": "a"}, "curve": [1, 2], "none": None}
    found["alarms"] = {"no_content": 0, "chosen_falling": 2}
    lines = in_lines(measured(found, plain=True)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    expected = [["steps", "3"], ["final_loss", "0.1235"], ["by/grade", "0.5"], ["by/kind", "a"]]
    assert cells[1:] == [*expected, ["alarms/chosen_falling", "2"]]  # one that did not go off is none


def test_metrics_of_lists_alone_have_no_table(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    for metrics, said in (({"gains": {"rust": [0.1, 0.0, 0.2]}}, False), ({"loss": 2.0, "gains": [0.1]}, True)):
        path.write_text(json.dumps(metrics))
        say_measured(path)
        assert bool(capsys.readouterr().out) == said

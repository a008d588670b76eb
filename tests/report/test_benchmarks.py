"""The papers' tables: a row per checkpoint, on the page and in a terminal."""

import json

import pytest

from llama_align.data import RecordError
from llama_align.report import write_report
from llama_align.report.benchmarks import tables
from llama_align.report.terminal import in_lines, measured

TASK = {"metric": "acc", "shots": 5, "value": 0.275, "stderr": 0.0125, "n": 1000}
SEEN = TASK | {"shots": 0, "contamination": {"share": 0.031}, "cut": 0.5}
GROUP = {"title": "MMLU", "value": 0.275, "stderr": 0.0125}
METRICS = {
    "checkpoints": [
        {"name": "base", "tasks": {"herd_mmlu": TASK, "herd_copa": SEEN}, "groups": {"mmlu": GROUP}},
        {"name": "sft", "tasks": {"herd_copa": {"metric": "acc", "shots": 0, "value": 0.5}}, "groups": {}},
    ]
}


def test_groups_and_tasks_are_columns_and_checkpoints_rows():
    groups, tasks = tables(METRICS)
    assert (groups.headings, groups.names) == (["MMLU"], ["base", "sft"])
    assert tasks.headings == ["mmlu, acc, 5-shot", "copa, acc, 0-shot"]
    assert [[(cell.text, cell.detail) for cell in row] for row in tasks.cells] == [
        [("27.5", "± 1.2"), ("27.5", "± 1.2, 3% seen, 50% cut")],
        [("", ""), ("50.0", "")],
    ]
    assert list(tables({"rows": 3})) == []
    with pytest.raises(RecordError, match=r"metrics, tasks.herd_copa.*value"):
        list(tables({"checkpoints": [{"name": "base", "tasks": {"herd_copa": {"metric": "acc", "shots": 0}}}]}))


def test_a_terminal_has_a_line_for_each_of_them():
    lines = in_lines(measured(METRICS, plain=True)).splitlines()
    assert [line.split("|")[1].strip() for line in lines if "|" in line] == [
        *("Benchmark, %", "MMLU", "mmlu, acc, 5-shot", "copa, acc, 0-shot")
    ]


def test_the_page_has_them(tmp_path):
    steps = [{"name": "benchmark", "recipe": "benchmark", "directory": "b", "seconds": 3.0, "status": "finished"}]
    (tmp_path / "run.json").write_text(json.dumps({"name": "run", "seed": 0, "steps": steps}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.json").write_text(json.dumps(METRICS))
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert "<h2>Benchmarks</h2>" in page
    assert "3% seen" in page

"""Where curves go, and what is refused; TensorBoard's are read back where it is installed."""

import json
import sqlite3
from contextlib import closing
from importlib.machinery import ModuleSpec

import pytest

from llama_align.runtime import trackers
from llama_align.runtime.trackers import check_tracker, curve_of, numbers, open_tracker, track_round


@pytest.fixture
def run(tmp_path):
    rows = [
        {"name": "sft", "directory": "sft-1a"},
        {"name": "best-2", "directory": "best-2-2b", "round": 2, "of": "best"},
    ]
    rows = [row | {"status": "finished"} for row in rows]
    (tmp_path / "run.json").write_text(json.dumps({"name": "demo", "steps": rows}))
    for row in rows:
        (tmp_path / row["directory"]).mkdir()
    table = [{"name": "kept", "score": 0.1}, {"name": "new", "score": 0.5, "kl": {"mean": 2.0, "low": float("nan")}}]
    (tmp_path / "best-2-2b" / "metrics.json").write_text(
        json.dumps({"chosen": "new", "candidates": table, "alarms": []})
    )
    return tmp_path


def test_programme_round_and_step_name_a_curve(run, tmp_path):
    found = curve_of(run / "best-2-2b")
    assert (found.project, found.group, found.name, found.folder) == ("demo", "round-2", "best-2-2b", run / "tracking")
    assert curve_of(run / "sft-1a").group == "before"
    alone = curve_of(tmp_path / "elsewhere")
    assert (alone.project, alone.name, alone.folder) == (
        "llama-align",
        "elsewhere",
        tmp_path / "elsewhere" / "tracking",
    )


def test_a_step_of_a_round_is_one_point_of_the_series(run, monkeypatch):
    logged = []

    class Kept:
        def log(self, step, values):
            logged.append((step, values))

        def close(self):
            logged.append("closed")

    monkeypatch.setattr(trackers, "open_tracker", lambda kind, curve: Kept())
    track_round("tensorboard", run, "best-2")
    assert logged == [(2, {"best/chosen/score": 0.5, "best/chosen/kl/mean": 2.0}), "closed"]
    track_round("tensorboard", run, "sft")
    track_round("none", run, "best-2")
    assert len(logged) == 2


def test_what_no_tracker_takes_is_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="tracker: found 'mlflow', expected one of none, trackio, tensorboard, wandb"):
        check_tracker("mlflow")
    for spec in (None, ModuleSpec("wandb", None)):
        monkeypatch.setattr(trackers, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ValueError, match="tracker: found wandb, which is not installed"):
            check_tracker("wandb")
    with pytest.raises(ValueError, match="tracker: found wandb, which is not installed"):
        open_tracker("wandb", curve_of(tmp_path))
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None, origin="there"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    with pytest.raises(ValueError, match="TRACKIO_SPACE_ID: found it in the environment, expected none"):
        check_tracker("trackio")
    assert open_tracker("none", curve_of(tmp_path)) is None


def test_numbers_alone_are_logged():
    assert numbers({"a": 1, "b": {"c": 2.5}, "d": "x", "e": True, "f": float("inf"), "g": [1]}) == {
        "a": 1.0,
        "b/c": 2.5,
    }


def test_a_resumed_run_goes_on_with_its_curve(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve = curve_of(run / "best-2-2b")
    for start, end in ((0, 7), (4, 10)):  # killed behind step 7, with a checkpoint of step 4
        tracker = open_tracker("tensorboard", curve, start)
        for step in range(start + 1, end + 1):
            tracker.log(step, {"loss": 1 / step})
        tracker.close()
    events = EventAccumulator(str(run / "tracking" / "round-2" / "best-2-2b")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [*range(1, 11)]


def test_a_curve_of_trackio_lies_in_its_runs_folder(tmp_path, monkeypatch):
    pytest.importorskip("trackio")  # imported before a folder is known, as TRL does
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    for name in ("a", "b"):
        tracker = open_tracker("trackio", curve_of(tmp_path / name))
        tracker.log(1, {"loss": 0.5})
        tracker.close()
        with closing(sqlite3.connect(tmp_path / name / "tracking" / "llama-align.db")) as file:
            assert file.execute("select run_name, step from metrics").fetchall() == [(name, 1)]

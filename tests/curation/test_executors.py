"""Where stages run: options reach datatrove's executors or are refused; every stage can be sent to a machine."""

import os

import pytest

pytest.importorskip("datatrove", reason="needs the extra 'curation'")
pytest.importorskip("trafilatura", reason="needs the extra 'curation'")

import dill

from llama_align.curation import options
from llama_align.curation.executors import Executor, Stage
from llama_align.data import SourceError

from .test_pipeline import pipeline, plant


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("local", {"randomize_start_duration": 2, "local_rank_offset": 0}),
        ("slurm", {"partition": "hopper", "time": "01:00:00", "mem_per_cpu_gb": 8, "sbatch_args": {"account": "a"}}),
        ("ray", {"cpus_per_task": 2, "mem_per_cpu_gb": 4, "tasks_per_job": 3}),
    ],
)
def test_options_reach_the_executor(kind, given, tmp_path):
    executor = Executor(kind, tasks=5, workers=3, options=given)
    made = executor._make(Stage("pages", [], 5), tmp_path, None)
    assert made.tasks == 5
    for name, value in given.items():
        assert getattr(made, {"sbatch_args": "_sbatch_args"}.get(name, name)) == value
    if kind == "slurm":
        sent = made.get_sbatch_args(5)
        assert (sent["partition"], sent["mem-per-cpu"], sent["account"]) == ("hopper", "8G", "a")
        assert (sent["job-name"], sent["time"], sent["array"]) == ("curate-pages", "01:00:00", "0-4")
    else:
        assert made.workers == 3


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("slurm", {"partitoin": "x"}, "executor_options: found 'partitoin', expected some of condaenv, cpus_per_task"),
        ("local", {"partition": "x"}, "executor_options: found 'partition', expected some of local_rank_offset"),
        ("ray", {"workers": 3}, "executor_options: found 'workers'"),
        ("slurm", {"skip_completed": False}, "executor_options: found 'skip_completed'"),
    ],
)
def test_options_of_no_or_another_executor_are_refused(kind, given, message):
    with pytest.raises(SourceError, match=message):
        Executor(kind, options=given)


def test_every_stage_can_be_sent_to_another_machine(tmp_path):
    run = pipeline(plant(tmp_path / "planted"), tmp_path, semantic=options.Semantic(), kinds=options.Kinds())
    run.work = tmp_path / "work"
    slurm, before = Executor("slurm", tasks=2), None
    stages = run.stages(2)
    for stage in stages:
        before = slurm._make(stage, tmp_path / stage.name, before)
        sent = dill.loads(dill.dumps(before, fmode=dill.CONTENTS_FMODE))
        assert [type(step) for step in sent.pipeline] == [type(step) for step in stage.steps]
        assert sent.tasks == stage.tasks
    assert [stage.name for stage in stages][-4:] == ["semantic-place", "semantic-choose", "select", "finish"]


def test_a_job_that_sbatch_refuses_ends_the_run_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/bash\nexit 3\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SourceError, match="executor: sbatch ended with 3, expected a job's number"):
        Executor("slurm").run([Stage("pages", [], 1), Stage("select", [], 1)], tmp_path / "logs")

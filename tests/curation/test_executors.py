"""Where stages run: options reach datatrove's executors or are refused; Slurm's jobs run by a stand-in for sbatch."""

import os
import sys

import pytest

pytest.importorskip("datatrove", reason="needs the extra 'curation'")
pytest.importorskip("trafilatura", reason="needs the extra 'curation'")

from llama_align.curation.executors import Executor, Stage
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source
from llama_align.data import SourceError, write_jsonl

from .test_pipeline import ONE, content, prose

# runs the array's tasks at once, one after the other, with what Slurm would tell them
SBATCH = """#!/bin/bash
script=$(mktemp); cat "${@: -1}" > $script
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' $script)
for task in $(seq 0 ${last:-0}); do
    SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=7 bash $script >> $FAKE_LOG 2>&1 || echo "task $task failed" >> $FAKE_LOG
done
echo "$script" >> $FAKE_LOG.scripts
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* || $1 =~ ^[0-9]+$ ]]; do shift; done
exec "$@"
"""


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


def test_jobs_of_slurm_leave_the_corpus_of_a_local_run(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "in.jsonl", [{"text": prose(60, n)} for n in range(6)])
    source = Source.parse(str(tmp_path / "in.jsonl"))
    Pipeline(tmp_path / "local", [source]).run(ONE)

    programs = tmp_path / "programs"
    programs.mkdir()
    launch = f"#!{sys.executable}\nfrom datatrove.tools.launch_pickled_pipeline import main\nmain()\n"
    stand_ins = {"sbatch": SBATCH, "srun": SRUN, "launch_pickled_pipeline": launch, "merge_stats": "#!/bin/bash\n"}
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    slurm = Executor("slurm", tasks=2, options={"partition": "p", "qos": ""})
    assert Pipeline(tmp_path / "slurm", [source]).run(slurm) is None
    assert content(tmp_path / "slurm") == content(tmp_path / "local"), (tmp_path / "log").read_text()[-3000:]


def test_a_job_that_sbatch_refuses_ends_the_run_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/bash\nexit 3\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SourceError, match="executor: sbatch ended with 3, expected a job's number"):
        Executor("slurm").run([Stage("pages", [], 1), Stage("select", [], 1)], tmp_path / "logs")

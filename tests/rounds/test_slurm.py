"""Steps as jobs of Slurm: the files that are submitted, and a real Slurm where LLAMA_ALIGN_SLURM names one.

`tests/rounds/slurm.py` says how it is had without installation.
"""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from llama_align.recipe import RecipeError
from llama_align.rounds import Plan, PlanError, Run, slurm
from llama_align.rounds.lease import Lease
from llama_align.rounds.outputs import read_marker
from llama_align.rounds.status import standings

from .conftest import journal, make_run, wait_for
from .kills import ROOT
from .slurm import Slurm
from .small import plan

UNPACKED = os.environ.get("LLAMA_ALIGN_SLURM")
real = pytest.mark.skipif(not UNPACKED, reason="LLAMA_ALIGN_SLURM names no unpacked Slurm (tests/rounds/slurm.py)")


def submitted(place, **more) -> None:
    """Makes the plan one whose steps are jobs."""
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    (place / "plan.yaml").write_text(yaml.safe_dump(plan | {"executor": "slurm"} | more))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An sbatch that numbers jobs; a squeue that says what `queue` has."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("sbatch", f'echo "$2" >> {tools}/submitted; wc -l < {tools}/submitted'),
        ("squeue", f"cat {tools}/queue 2>/dev/null || true"),
        ("sacct", f"cat {tools}/accounts 2>/dev/null"),
    ):
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tools


def options_of(path: Path) -> dict[str, str]:
    lines = [line[10:] for line in path.read_text().splitlines() if line.startswith("#SBATCH --")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_every_step_is_submitted_behind_those_it_needs(place, fake, capsys):
    (fake / "queue").write_text("1|RUNNING|None\n2|PENDING|Dependency\n")
    resources = {"cpus": 2, "mem": "8G", "time": "02:00:00", "partition": "cpu", "setup": ["module load x"]}
    submitted(place, resources=resources | {"sbatch": {"comment": "a b", "exclusive": None}})
    run = make_run(place)
    run.execute()
    first, second = (run.folders[name] / "step.sbatch" for name in ("first", "second"))
    assert (fake / "submitted").read_text().split() == [str(first), str(second)]
    options = options_of(second)
    assert options.pop("chdir") == str(Path.cwd())
    assert options == {
        **{"job-name": "test.second", "output": str(second.parent / "slurm.log"), "open-mode": "append"},
        **{"requeue": "", "signal": "B:TERM@300", "dependency": "afterok:1", "kill-on-invalid-dep": "yes"},
        **{"cpus-per-task": "2", "mem": "8G", "time": "02:00:00", "partition": "cpu"},
        **{"comment": "'a b'", "exclusive": ""},
    }
    assert "dependency" not in options_of(first)
    last = second.read_text().splitlines()[-2:]
    assert last[0] == "module load x"
    assert last[1].startswith("exec ")
    assert last[1].endswith(f"-m llama_align.rounds.job {second.parent}")
    assert "[2/2] second: job 2 behind 1" in capsys.readouterr().out
    assert [(row.state, row.why) for row in standings(make_run(place))] == [
        ("running", "job 1 of Slurm: RUNNING"),
        ("submitted", "job 2 of Slurm: PENDING (Dependency)"),
    ]
    make_run(place).execute()  # both are on their way
    assert len((fake / "submitted").read_text().split()) == 2
    here = Run(Plan.load(place / "plan.yaml", place / "recipes", executor="local"), place / "run", place / "recipes")
    with pytest.raises(RecipeError, match=r"step 'first' is job 1 of Slurm \(RUNNING\); scancel it to run it here"):
        here.execute()
    (fake / "squeue").rename(fake / "away")
    (fake / "squeue").write_text("#!/bin/bash\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    (fake / "squeue").chmod(0o755)
    with pytest.raises(RecipeError, match="squeue failed, and nobody knows which jobs are over: Unable to contact"):
        make_run(place).execute()
    (fake / "away").rename(fake / "squeue")
    # the first has failed, and the second waits until Slurm cancels it
    (fake / "queue").write_text("2|PENDING|DependencyNeverSatisfied\n")
    (fake / "accounts").write_text("1|TIMEOUT\n")
    assert [row.state for row in standings(make_run(place))] == ["failed", "failed"]
    # the first has failed and the second was cancelled
    (fake / "queue").write_text("")
    (fake / "accounts").write_text("1|TIMEOUT\n2|CANCELLED by 0\n")
    assert standings(make_run(place))[0].why == "job 1 of Slurm: TIMEOUT; the same command submits it again"
    make_run(place).execute()
    assert options_of(second)["dependency"] == "afterok:3"


def test_a_step_that_a_job_holds_is_not_run_beside_it(place):
    folder = make_run(place).folders["first"]
    folder.mkdir(parents=True)
    job = Lease(folder)
    job.take()
    with pytest.raises(RecipeError, match=r"step 'first' is at work as a job \(process \d+ on "):
        make_run(place).execute()
    job.give_back()
    make_run(place).execute()
    assert journal(place) == ["make", "use"]


def test_resources_are_no_part_of_what_a_step_is(place):
    before = make_run(place).identities
    submitted(place, resources={"cpus": 4})
    assert make_run(place).identities == before


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"cpu": 2}, "field 'resources.cpu': unknown, expected nodes, gpus, cpus"),
        ({"cpus": 0}, "field 'resources.cpus': found 0, expected a whole number of at least 1"),
        ({"mem": "8G\n#"}, "field 'resources.mem': found '8G"),
        ({"setup": "module"}, "field 'resources.setup': found 'module', expected a list of lines"),
        ({"sbatch": {"a": []}}, "field 'resources.sbatch': found"),
        ({"array": 4}, "field 'resources.array': found it for make, expected one of rejection_sampling"),
        ({"nodes": 2}, "field 'resources.nodes': found several without launch"),
        ([], "field 'resources': found"),
    ],
)
def test_resources_that_no_job_can_be_asked_for_are_named(place, resources, said):
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan["steps"][0]["resources"] = resources
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(PlanError) as error:
        make_run(place)
    assert said in str(error.value)


def test_shards_are_an_array_before_their_step(place, fake):
    (place / "recipes" / "rejection_sampling.py").write_text("")
    step = {"name": "draw", "recipe": "rejection_sampling", "resources": {"array": 8, "at_once": 4}}
    (place / "plan.yaml").write_text(yaml.safe_dump({"name": "test", "executor": "slurm", "steps": [step]}))
    run = make_run(place)
    run.execute()
    shards, whole = (run.folders["draw"] / name for name in ("shards.sbatch", "step.sbatch"))
    assert (fake / "submitted").read_text().split() == [str(shards), str(whole)]
    assert options_of(shards)["array"] == "0-7%4"
    assert shards.read_text().rstrip().endswith(f"{run.folders['draw']} --part $SLURM_ARRAY_TASK_ID/8")
    assert options_of(whole)["dependency"] == "afterok:1"
    step["set"] = {"temperature_search": [0.5, 1.0]}
    (place / "plan.yaml").write_text(yaml.safe_dump({"name": "test", "executor": "slurm", "steps": [step]}))
    with pytest.raises(PlanError, match="found it with temperature_search"):
        make_run(place)


def test_several_nodes_get_a_launcher_each(place, fake):
    (place / "launch.yaml").write_text("num_processes: 4\n")
    submitted(place)
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan["steps"][0] |= {"launch": str(place / "launch.yaml"), "resources": {"nodes": 3, "gpus": 8}}
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    run = make_run(place)
    run.execute()
    file = run.folders["first"] / "step.sbatch"
    options, line = options_of(file), file.read_text().splitlines()[-1]
    assert (options["nodes"], options["gpus-per-node"], options["signal"]) == ("3", "8", "TERM@300")
    assert " -- srun --ntasks=3 --ntasks-per-node=1 bash -c " in line
    for part in ("--num_machines=3", "--num_processes=24", "--machine_rank=$SLURM_NODEID", "head -n 1"):
        assert part in line
    assert f"--config {run.folders['first'] / 'config.yaml'}" in line


def test_jobs_at_once_are_slurms_business(place, fake):
    submitted(place)
    with pytest.raises(RecipeError, match="jobs: found 2, expected none with executor slurm"):
        make_run(place).execute(jobs=2)


def test_without_slurm_and_where_it_refuses(place, fake):
    submitted(place)
    (fake / "sbatch").write_text("#!/bin/bash\necho 'error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(RecipeError, match=r"step.sbatch: sbatch refused it: error: invalid partition"):
        make_run(place).execute()
    (fake / "sbatch").unlink()
    with pytest.raises(RecipeError, match="executor: found no sbatch"):
        make_run(place).execute()


# -- a real one


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    (tmp_path / "slurm").mkdir()
    with Slurm(Path(UNPACKED), tmp_path / "slurm", random.randint(20000, 29000)) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


def call(*command: str) -> None:
    subprocess.run(command, check=True)


def until_finished(run, seconds: float = 300) -> None:
    """Waits for all steps; a job that waits to begin again is let go at once."""
    until = time.monotonic() + seconds
    while not all(map(run.finished, run.folders)):
        for job in slurm.jobs(run.folders).values():
            if job.reason == "BeginTime":
                call("scontrol", "update", f"jobid={job.number}", "starttime=now")
        logs = [log.read_text() for log in run.directory.glob("*/slurm.log")]
        assert time.monotonic() < until, "\n".join(logs)
        time.sleep(0.5)


def outputs_of(run) -> dict:
    found = {name: read_marker(folder)["outputs"] for name, folder in run.folders.items()}
    return {name: {file: row["sha256"] for file, row in rows.items()} for name, rows in found.items()}


@real
@pytest.mark.slow
@pytest.mark.parametrize("how", ["preempted", "told"])
def test_a_job_that_is_stopped_goes_on_and_leaves_the_same(place, cluster, how):
    submitted(place)
    (place / "slow").write_text("")
    run = make_run(place)
    run.execute()
    wait_for(lambda: (place / "started").is_file(), 300)
    job = slurm.jobs(run.folders)["second"]
    assert job.works
    assert standings(make_run(place))[1].state == "running"
    (place / "slow").unlink()
    if how == "preempted":  # Slurm ends the job and puts it back
        call("scontrol", "requeue", job.number)
    else:  # as before the end of its time: the job puts itself back
        call("scancel", "--batch", "--signal=TERM", job.number)
    until_finished(run)
    assert journal(place) == ["make", "use", "resume"]
    assert (run.folders["second"] / "sum.txt").read_text() == "6"
    make_run(place).execute()
    assert journal(place) == ["make", "use", "resume"], "nothing is submitted again"


@real
@pytest.mark.slow
def test_what_needs_a_step_that_failed_is_cancelled(place, cluster):
    submitted(place)
    (place / "fail").write_text("")
    run = make_run(place)
    run.execute()
    wait_for(lambda: all(job.is_over for job in slurm.jobs(run.folders).values()), 300)
    assert "step 'first' ended with exit code 3" in (run.folders["first"] / "slurm.log").read_text()
    assert [row.state for row in standings(make_run(place))] == ["failed", "failed"]
    assert not (run.folders["second"] / "slurm.log").exists()


@real
@pytest.mark.slow
def test_a_training_step_that_is_preempted_leaves_the_bytes_of_a_run_on_this_machine(tmp_path, cluster):
    steps = plan()["steps"][:3]
    path, recipes = tmp_path / "plan.yaml", ROOT / "recipes"
    path.write_text(yaml.safe_dump({"name": "real", "steps": steps}))
    here = Run(Plan.load(path, recipes), tmp_path / "run", recipes)
    here.execute()
    expected = outputs_of(here)
    (tmp_path / "run").rename(tmp_path / "here")
    there = Run(Plan.load(path, recipes, executor="slurm"), tmp_path / "run", recipes)
    there.execute()
    folder = there.folders["pretrain"]
    wait_for(lambda: (folder / "checkpoint-2" / "manifest.json").is_file(), 600)
    call("scontrol", "requeue", slurm.jobs(there.folders)["pretrain"].number)
    until_finished(there, 600)
    assert outputs_of(there) == expected
    assert json.loads((folder / "slurm.json").read_text())["job"] == "3"

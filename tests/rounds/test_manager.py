"""The round manager with real processes: finished steps never run twice, half-finished ones never count as finished."""

import errno
import json
import os
import signal

import pytest
import yaml

from llama_align.recipe import STOPPED, RecipeError, StoppedEarly, WaitsForPeople
from llama_align.rounds.outputs import outputs
from llama_align.rounds.status import standings
from llama_align.runtime import files

from .conftest import execute, is_alive, journal, make_run, started, wait_for


def test_a_run_and_its_overview(place):
    run = make_run(place)
    run.execute()
    assert (run.folders["second"] / "sum.txt").read_text() == "6"
    overview = json.loads((place / "run" / "run.json").read_text())
    assert [step["status"] for step in overview["steps"]] == ["finished", "finished"]
    assert overview["steps"][1]["inputs"] == ["first"]


def test_a_finished_step_is_never_run_twice(place):
    make_run(place).execute()
    make_run(place).execute()
    assert journal(place) == ["make", "use"]


def test_a_changed_setting_runs_again_and_loses_nothing(place):
    first = make_run(place)
    first.execute()
    content = (place / "plan.yaml").read_text().replace("size: 4", "size: 5")
    (place / "plan.yaml").write_text(content)
    second = make_run(place)
    second.execute()
    assert journal(place) == ["make", "use", "make", "use"]
    assert (second.folders["second"] / "sum.txt").read_text() == "10"
    assert (first.folders["second"] / "sum.txt").read_text() == "6"


def test_a_failed_step_stops_the_run_and_is_redone(place):
    (place / "fail").write_text("")
    with pytest.raises(RecipeError, match="step 'first' ended with exit code 3"):
        make_run(place).execute()
    run = make_run(place)
    assert not run.finished("first")
    assert json.loads((place / "run" / "run.json").read_text())["steps"][0]["status"] == "failed"
    (place / "fail").unlink()
    run.execute()
    assert journal(place) == ["make", "make", "use"]
    assert (run.folders["second"] / "sum.txt").read_text() == "6"


def test_until_stops_after_a_step(place):
    run = make_run(place)
    run.execute(until="first")
    assert journal(place) == ["make"]
    with pytest.raises(RecipeError, match="until: found 'third', expected one of first, second"):
        run.execute(until="third")


def overview(place) -> list[str]:
    return [step["status"] for step in json.loads((place / "run" / "run.json").read_text())["steps"]]


def step_at_work(place) -> int:
    """Process of the second step, once it is at work."""
    return int(wait_for(lambda: (place / "started").is_file() and (place / "started").read_text()))


@pytest.mark.parametrize(
    ("number", "ended"),
    [
        (signal.SIGINT, "KeyboardInterrupt: step 'second' was at work"),
        (signal.SIGTERM, "StoppedEarly: step 'second' was stopped by SIGTERM"),
    ],
)
def test_a_run_asked_to_stop_says_how_to_go_on_and_goes_on_from_the_checkpoint(place, number, ended):
    (place / "slow").write_text("")
    manager = started(execute, place)
    child = step_at_work(place)
    assert overview(place) == ["finished", "running"]
    os.kill(manager.pid, number)
    manager.join(30)
    assert (place / "outcome").read_text().startswith(f"{ended}; the same command goes on")
    assert not is_alive(child)
    assert overview(place) == ["finished", "stopped"]
    (place / "slow").unlink()
    run = make_run(place)
    run.execute()
    assert journal(place) == ["make", "use", "resume"]
    assert "resume_from_checkpoint" not in (run.folders["second"] / "config.yaml").read_text(), "as if undisturbed"


def test_a_step_that_stopped_early_is_not_finished(place):
    script = place / "recipes" / "make.py"
    script.write_text(script.read_text() + f"(folder / {STOPPED!r}).write_text('{{}}')\nsys.exit(1)\n")
    run = make_run(place)
    with pytest.raises(StoppedEarly, match="step 'first' was stopped early; the same command goes on from here"):
        run.execute()
    assert not run.finished("first")
    assert overview(place) == ["stopped", "waiting"]


def test_a_step_waits_for_people_while_others_go_on(place):
    """It is open, what needs it waits, the rest is run; `status` says how far it is, and the same command goes on."""
    script = place / "recipes" / "make.py"
    whole, full = script.read_text(), place / "full"
    people = f"""
import pathlib, sys
if "first" in sys.argv[2] and not pathlib.Path({str(full)!r}).exists():
    told = pathlib.Path(sys.argv[2]).with_name("waits.json")
    told.write_text('{{"done": 12, "of": 30, "by": "people"}}')
    print("waits for people: 12 of 30 done")
    sys.exit(79)
"""
    script.write_text(people + whole)
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan["steps"].append({"name": "third", "recipe": "make", "set": {"size": 2}})
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(WaitsForPeople, match="step 'first' waits for people: 12 of 30 done\nthe same command goes on"):
        make_run(place).execute()
    assert overview(place) == ["open", "waiting", "finished"]
    rows = [(row.state, row.why) for row in standings(make_run(place))]
    assert rows[:2] == [("waiting", "12 of 30 by people; goes on when the batch is full"), ("waiting", "")]
    full.write_text("")
    make_run(place).execute()
    assert overview(place) == ["finished"] * 3
    assert journal(place) == ["make", "make", "use"]


@pytest.mark.parametrize("victim", ["manager", "both"])
def test_a_killed_manager_takes_its_step_along_and_nobody_else_writes_meanwhile(place, victim):
    (place / "slow").write_text("")
    manager = started(execute, place)
    child = step_at_work(place)
    with pytest.raises(RecipeError, match=rf"another process runs in this directory.*\(process {manager.pid} on "):
        make_run(place).execute()
    for pid in (manager.pid, child) if victim == "both" else (manager.pid,):
        os.kill(pid, signal.SIGKILL)
    manager.join(30)
    (place / "slow").unlink()
    make_run(place).execute()
    assert not is_alive(child)
    assert journal(place) == ["make", "use", "resume"]


def test_a_killed_step_is_a_failed_one(place):
    (place / "slow").write_text("")
    manager = started(execute, place)
    os.kill(step_at_work(place), signal.SIGKILL)
    manager.join(30)
    assert (place / "outcome").read_text().startswith("RecipeError: step 'second' ended with exit code -9")
    assert overview(place) == ["finished", "failed"]


LAUNCHER = """
import os, subprocess, sys
# as torch's launcher does it: no files inherited, a session of its own
worker = subprocess.Popen([sys.executable, {worker!r}, *sys.argv[1:]], start_new_session=True)
open(os.environ["JOURNAL"] + ".launcher", "w").write(str(os.getpid()))
sys.exit(worker.wait())
"""
WORKER = """
import os, runpy, sys, time
place = os.environ["JOURNAL"]
open(place + ".worker", "w").write(str(os.getpid()))
if {late}:
    time.sleep(0.7)  # imports
runpy.run_path({lineage!r})["answer_to_manager"]()
with open(place + ".written", "w") as file:
    while True:
        print(os.getpid(), file=file, flush=True)
        time.sleep(0.01)
"""


@pytest.mark.parametrize("late", [False, True], ids=["at work", "still starting"])
@pytest.mark.parametrize("victim", ["manager", "launcher", "group"])
def test_the_processes_of_a_launcher_end_with_it(place, victim, late):
    lineage = files.__file__.replace("files.py", "lineage.py")
    (place / "worker.py").write_text(WORKER.format(lineage=lineage, late=late))
    (place / "recipes" / "make.py").write_text(LAUNCHER.format(worker=str(place / "worker.py")))
    manager = started(execute, place)

    def pid_of(who: str) -> int:
        path = place / f"journal.{who}"
        return int(wait_for(lambda: path.is_file() and path.read_text()))

    launcher, worker = pid_of("launcher"), pid_of("worker")
    written = place / "journal.written"
    if not late:
        wait_for(written.is_file)
    for pid in {"manager": [manager.pid], "launcher": [launcher], "group": [manager.pid, launcher]}[victim]:
        os.kill(pid, signal.SIGKILL)
    manager.join(30)
    (place / "recipes" / "make.py").write_text("import sys; sys.exit(9)")
    with pytest.raises(RecipeError, match="exit code 9"):
        make_run(place).execute()  # alone in this directory
    before = written.read_text() if written.is_file() else None
    assert not is_alive(launcher)
    wait_for(lambda: not is_alive(worker), 5)
    assert (written.read_text() if written.is_file() else None) == before, "no orphan wrote on"
    assert late is (before is None)


def test_what_a_killed_process_left_unfinished_is_gone_at_the_next_start(place):
    run = make_run(place)
    folder = run.folders["first"]
    (folder / "deep").mkdir(parents=True)
    (folder / "scores").mkdir()
    parts = [run.directory / ".run.json.7.part", folder / ".a.jsonl.7.part", folder / "deep" / "model.safetensors.part"]
    shared = folder / "scores" / ".block.jsonl.7.part"
    for part in (*parts, shared):
        part.write_text("half")
    run.execute()
    assert [part for part in parts if part.exists()] == []
    assert shared.exists(), "perhaps of another run at work"


# -- outputs of finished steps


def test_changed_outputs_are_noticed_when_they_are_used(place):
    run = make_run(place)
    run.execute()
    numbers = run.folders["first"] / "numbers.txt"
    whole = numbers.read_text()
    for harm, found in (
        (lambda: numbers.write_text("0 1"), "found 3 bytes, expected 7"),
        (numbers.unlink, "found no such file"),
        (lambda: numbers.write_text("0 1 2 4"), "found other content"),
    ):
        harm()
        with pytest.raises(
            RecipeError,
            match=rf"step 'first' is finished, but its outputs have changed: .*numbers.txt: {found}.*"
            r"remove .*step.json to run the step again",
        ):
            make_run(place).execute()
        numbers.write_text(whole)
    make_run(place).execute()  # at another time, but the same
    (run.folders["first"] / "step.json").unlink()
    numbers.write_text("broken")
    make_run(place).execute()
    assert journal(place) == ["make", "use", "make"]
    assert numbers.read_text() == whole


def test_a_step_made_from_other_outputs_than_are_there_is_not_done_before(place):
    run = make_run(place)
    run.execute()
    (run.folders["first"] / "step.json").unlink()
    make_run(place).execute()  # the same again is what the second step was made from
    marker = run.folders["first"] / "step.json"
    content = json.loads(marker.read_text())
    (run.folders["first"] / "numbers.txt").write_text("0 1 2 4")
    content["outputs"] = outputs(run.folders["first"])  # as of a run that left something else
    marker.write_text(json.dumps(content))
    expected = (
        r"step 'second' is finished, but step 'first', which it was made from, has been run again since .* Remove"
    )
    with pytest.raises(RecipeError, match=expected):
        make_run(place).execute()
    with pytest.raises(RecipeError, match=expected):
        make_run(place).verify()


def test_inputs_are_looked_at_again_right_before_their_use(place, monkeypatch):
    run = make_run(place)
    write = run._write_overview

    def meanwhile(*args):
        write(*args)
        if (run.folders["first"] / "step.json").is_file():
            (run.folders["first"] / "numbers.txt").unlink(missing_ok=True)

    monkeypatch.setattr(run, "_write_overview", meanwhile)
    with pytest.raises(RecipeError, match="step 'first' is finished, but its outputs have changed"):
        run.execute()
    assert journal(place) == ["make"]


def test_logs_checkpoints_and_caches_may_change(place):
    script = place / "recipes" / "make.py"
    caches = ("checkpoint-3/a", "shards/x/a", "scores/m/a", "reference-1.arrow", "runs/a")
    write = "    (folder / name).parent.mkdir(parents=True, exist_ok=True)\n    (folder / name).write_text('x')\n"
    script.write_text(script.read_text() + f"for name in {caches!r}:\n{write}")
    run = make_run(place)
    run.execute()
    recorded = json.loads((run.folders["first"] / "step.json").read_text())["outputs"]
    assert set(recorded) == {"numbers.txt"}
    for name in (*caches, "output.log"):
        (run.folders["first"] / name).unlink()
    make_run(place).execute()
    assert journal(place) == ["make", "use"]


def test_verify_compares_contents_and_names_all_that_changed(place, capsys):
    run = make_run(place)
    run.execute(until="first")
    capsys.readouterr()
    run.verify()
    assert capsys.readouterr().out == "first: as it was written\nsecond: not finished\n"
    run.execute()
    for name, file in (("first", "numbers.txt"), ("second", "sum.txt")):
        path = run.folders[name] / file
        before = path.stat()
        path.write_text(path.read_text().replace("3", "7").replace("6", "8"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time
    make_run(place).execute()
    with pytest.raises(RecipeError) as error:
        run.verify()
    assert [line.split(" is finished")[0] for line in str(error.value).splitlines()] == [
        "step 'first'",
        "step 'second'",
    ]


def test_a_step_of_an_older_version_is_taken_as_it_is_and_says_so(place, capsys):
    run = make_run(place)
    run.execute()
    for folder in run.folders.values():
        marker = json.loads((folder / "step.json").read_text())
        del marker["outputs"]
        (folder / "step.json").write_text(json.dumps(marker))
    capsys.readouterr()
    make_run(place).execute()
    note = "step.json has no digests of its outputs, which are taken as they are"
    assert capsys.readouterr().out.count(note) == 2
    run.verify()
    assert capsys.readouterr().out.count(note) == 2
    assert journal(place) == ["make", "use"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[]", "found list, expected an object"),
        (b"3", "found int"),
        (b"null", "found NoneType"),
        (b"\xff\xfe\x00", "found no readable step record"),
        (b"", "found no readable step record"),
        (b'{"seconds": 3}', "found no identity"),
        (b'{"identity": 3}', "found no identity"),
        (b'{"identity": "x", "outputs": []}', "field 'outputs'"),
        (b'{"identity": "x", "outputs": {"a": {"size": true}}}', "field 'outputs'"),
        (b"[" * 100000, "found no readable step record"),
    ],
)
def test_a_step_record_of_another_type_is_named(place, content, found):
    run = make_run(place)
    run.folders["first"].mkdir(parents=True)
    (run.folders["first"] / "step.json").write_bytes(content)
    with pytest.raises(RecipeError, match=r"step\.json.*remove it to run the step again") as error:
        run.execute()
    assert found in str(error.value)


def test_a_full_disk_is_named_with_the_file(place, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = make_run(place)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*config\.yaml'") as error:
        run.execute()
    assert error.value.errno == errno.ENOSPC


def test_a_plan_in_another_place_is_the_same_run(place):
    make_run(place).execute()
    (place / "run").rename(place / "moved")
    run = make_run(place)
    moved = type(run)(run.plan, place / "moved", place / "recipes")
    moved.execute()
    assert journal(place) == ["make", "use"]
    assert yaml.safe_load((moved.folders["first"] / "config.yaml").read_text())["size"] == 4

"""What goes wrong with the files of a run is found and named: full disks, cut tensors, inputs, records."""

import json
import os
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import save_file

from llama_align.recipe import RecipeError
from llama_align.rounds import Plan, Run
from llama_align.rounds.status import standings

from .conftest import journal, make_run

SAVE = """
import sys, yaml, pathlib, shutil
config = yaml.safe_load(open(sys.argv[2]))
shutil.copy(config["weights"], pathlib.Path(config["output_dir"]) / "model.safetensors")
"""


@pytest.fixture
def trained(place):
    """A finished run whose first step left a tensor file, made from a file outside."""
    save_file({"weight": torch.arange(600.0)}, place / "given.safetensors")
    (place / "recipes" / "make.py").write_text(SAVE)
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    plan["steps"] = [{"name": "first", "recipe": "make", "set": {"weights": str(place / "given.safetensors")}}]
    (place / "plan.yaml").write_text(yaml.safe_dump(plan))
    run = make_run(place)
    run.execute()
    return run


def test_a_truncated_tensor_file(trained, place):
    file = trained.folders["first"] / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    said = rf"step 'first' is finished, but its outputs have changed: {file}: found {len(whole) - 100} bytes, expected"
    with pytest.raises(RecipeError, match=said):
        make_run(place).execute()
    with pytest.raises(RecipeError, match=said):
        make_run(place).verify()
    before = file.stat()
    file.write_bytes(whole[:-100] + bytes(100))  # a block that never reached the disk
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RecipeError, match=rf"{file}: found other content than was written"):
        make_run(place).verify()


@pytest.mark.parametrize(("harm", "said"), [("unlink", "is gone"), ("write", "has changed")])
def test_an_input_that_is_gone_or_another(trained, place, harm, said):
    given = place / "given.safetensors"
    if harm == "unlink":
        given.unlink()
    else:
        save_file({"weight": torch.zeros(600)}, given)
    (row,) = standings(make_run(place))
    assert (row.state, row.why) == ("waiting", f"{given} {said}")
    if harm == "unlink":
        with pytest.raises(RecipeError, match="step 'first' ended with exit code 1"):
            make_run(place).execute()
        assert f"No such file or directory: '{given}'" in (make_run(place).folders["first"] / "output.log").read_text()


def test_a_damaged_record_is_named_with_all_else_that_is_wrong(place):
    run = make_run(place)
    run.execute()
    marker = run.folders["first"] / "step.json"
    marker.write_text(marker.read_text()[:-40])
    (run.folders["second"] / "sum.txt").unlink()
    with pytest.raises(RecipeError) as error:
        make_run(place).verify()
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{marker}: found no readable step record")
    assert "sum.txt: found no such file" in second
    with pytest.raises(
        RecipeError, match=r"step.json: found no readable step record .*remove it to run the step again"
    ):
        make_run(place).execute()
    marker.unlink()
    (run.folders["second"] / "step.json").unlink()
    make_run(place).execute()
    assert journal(place) == ["make", "use"] * 2


def test_a_full_disk_ends_a_run_by_name_and_it_goes_on_when_there_is_room(place):
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        run = Run(Plan.load(place / "plan.yaml", place / "recipes"), disk / "run", place / "recipes")
        run.execute(until="first")
        filler = disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4096"], capture_output=True, check=False)
        with pytest.raises(OSError, match=r"No space left on device: '.*/disk/run/.*'"):
            run.execute()
        assert run.finished("first")
        assert not run.finished("second")
        filler.unlink()
        run.execute()
        assert (run.folders["second"] / "sum.txt").read_text() == "6"
        assert journal(place).count("make") == 1
        assert json.loads((disk / "run" / "run.json").read_text())["steps"][1]["status"] == "finished"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_step_that_says_it_was_stopped_is_not_finished_whatever_its_exit_code(place):
    script = place / "recipes" / "make.py"
    script.write_text(script.read_text() + "(folder / 'stopped.json').write_text('{}')\n")  # and its launcher says 0
    run = make_run(place)
    with pytest.raises(Exception, match="step 'first' was stopped early"):
        run.execute()
    assert not run.finished("first")

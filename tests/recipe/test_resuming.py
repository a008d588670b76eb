"""Which checkpoint a run goes on from: damaged ones are passed over by name, or refused where they were asked for."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llama_align import recipe
from llama_align.recipe.resuming import damage
from llama_align.runtime.files import write_json
from llama_align.runtime.manifest import described
from llama_align.trainers.continuing import MANIFEST

PPO = ("rollout_0.pt", "value_model/model.safetensors")
SHARED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")
ZERO = "global_step3/zero_pp_rank_{}_mp_rank_00_model_states.pt", "global_step3/bf16_zero_pp_rank_{}_optim_states.pt"


def write(folder: Path, *names: str, step: int = 3) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"weight": torch.arange(40.0)}, folder / name)
        elif name.endswith(".json"):
            (folder / name).write_text(json.dumps({"global_step": step, "log_history": []}))
        elif name == "latest":
            (folder / name).write_text("global_step3")
        else:
            torch.save({"state": torch.arange(40.0)}, folder / name)
    return folder


def seal(folder: Path) -> None:
    files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    write_json(folder / MANIFEST, {"processes": 1, "files": described(folder, files)})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def out(tmp_path):
    for step in (3, 9):
        write(tmp_path / f"checkpoint-{step}", *SHARED, *PPO, step=step)
    return tmp_path


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("harm", [Path.unlink, cut, empty], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", [*SHARED, *PPO])
def test_a_damaged_checkpoint_is_passed_over_by_name(out, name, harm, sealed, capsys):
    newest = out / "checkpoint-9"
    for folder in (newest, out / "checkpoint-3"):
        if sealed:
            seal(folder)
    assert recipe.resume_path("last", str(out)) == str(newest)
    assert capsys.readouterr().out == ""
    harm(newest / name)
    assert recipe.resume_path("last", str(out)) == str(out / "checkpoint-3")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    what = "value_model" if name == "value_model/model.safetensors" else "weights" if "model" in name else name
    assert lines[0].startswith("resume_from_checkpoint: checkpoint-9 is not whole")
    assert name in lines[0] or what in lines[0]
    with pytest.raises(recipe.RecipeError, match=r"resume_from_checkpoint: .*checkpoint-9.*found") as error:
        recipe.resume_path(str(newest), str(out))
    assert name in str(error.value) or what in str(error.value)


@pytest.mark.parametrize("name", [*SHARED, *PPO])
def test_a_changed_byte_shows_in_a_sealed_checkpoint(out, name):
    seal(out / "checkpoint-9")
    flip(out / "checkpoint-9" / name)
    assert recipe.resume_path("last", str(out)) == str(out / "checkpoint-3")


def test_a_copied_checkpoint_is_the_same_one(out, tmp_path):
    seal(out / "checkpoint-9")
    shutil.copytree(out / "checkpoint-9", tmp_path / "copy")  # at another time
    assert recipe.resume_path(str(tmp_path / "copy"), str(out)) == str(tmp_path / "copy")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": {"a": 3}}', '{"files": {"a": {"size": "1"}}}'])
def test_a_damaged_manifest_is_named(out, content):
    (out / "checkpoint-9" / MANIFEST).write_text(content)
    assert f"checkpoint-9/{MANIFEST}: found no list of files" in damage(out / "checkpoint-9")


def test_where_none_is_whole_training_starts_afresh_and_says_so(out, capsys):
    for step in (3, 9):
        empty(out / f"checkpoint-{step}" / "trainer_state.json")
    (out / "checkpoint-old").mkdir()
    assert recipe.resume_path("last", str(out)) is None
    assert "no checkpoint of" in capsys.readouterr().out.splitlines()[-1]


def test_weights_alone_are_no_checkpoint_to_go_on_from(out):
    folder = write(out / "checkpoint-12", "trainer_state.json", "model.safetensors")
    seal(folder)
    assert "save_only_model" in damage(folder)


def test_shards_of_weights(tmp_path):
    folder = write(tmp_path / "checkpoint-1", *SHARED[:4], "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "model-00001-of-00001.safetensors"}}))
    assert damage(folder) is None
    (folder / "model-00001-of-00001.safetensors").unlink()
    assert "model-00001-of-00001.safetensors: found no such file" in damage(folder)
    cut(index)
    assert "found no weight_map" in damage(folder)


@pytest.mark.parametrize("kind", ["ddp", "zero", "fsdp", "ppo"])
def test_files_of_every_process_have_to_be_there(tmp_path, kind):
    each = ["rng_state_{}.pth"]
    names = ["trainer_state.json", "scheduler.pt"]
    if kind == "zero":
        names, each = ["trainer_state.json", "latest"], [*each, *ZERO]
    elif kind == "fsdp":
        names += ["pytorch_model_fsdp.bin", "optimizer.bin"]
    else:
        names += ["optimizer.pt", "model.safetensors"]
    if kind == "ppo":
        names, each = [*names, "value_model/model.safetensors"], [*each, "rollout_{}.pt"]
    names += [name.format(rank) for name in each for rank in (0, 1)]
    whole = write(tmp_path / "whole", *names)
    assert damage(whole) is None
    assert (whole / "rng_state_1.pth").is_file()
    for name in names:
        folder = tmp_path / "damaged"
        for harm in (Path.unlink, cut):
            shutil.copytree(whole, folder)
            harm(folder / name)
            assert damage(folder), f"{name}, {harm}"
            shutil.rmtree(folder)


def test_nothing_is_unpickled_to_look_at_a_checkpoint(out, monkeypatch):
    import pickle

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(torch, "load", None)
    assert damage(out / "checkpoint-9") is None

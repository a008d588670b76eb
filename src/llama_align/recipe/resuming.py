"""Going on from a checkpoint: which one is whole, and what a run that stops early leaves.

Knows the files of Trainer's checkpoints; nothing is unpickled to look at them.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open

from ..runtime.files import write_json
from ..runtime.manifest import changed, is_manifest
from ..runtime.output import say
from ..trainers.continuing import MANIFEST
from .errors import GateShut, RecipeError, StoppedEarly
from .quiet import follow

LAST = (True, "last", "true", "True")
STOPPED = "stopped.json"  # where a run was stopped early, for whoever started it
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLED = (".pt", ".pth", ".bin")
OF_EACH_PROCESS = (
    r"rng_state_(\d+)\.pth",
    r"rollout_(\d+)\.pt",
    r".*zero_pp_rank_(\d+)_.*model_states\.pt",
    r".*zero_pp_rank_(\d+)_.*optim_states\.pt",
)


def train(trainer) -> None:
    """Trains up to `max_steps`, from the checkpoint that `resume_from_checkpoint` asks for.

    Raises:
        RecipeError: that checkpoint is not whole. StoppedEarly: SIGTERM ended the run (`enable_jit_checkpoint`).
        GateShut: a stage's gate stayed shut (docs/long_context.md).
    """
    args, main = trainer.args, trainer.accelerator.is_main_process
    note = Path(args.output_dir) / STOPPED
    found = [None, None]
    if main:
        note.unlink(missing_ok=True)
        try:
            found[0] = resume_path(args.resume_from_checkpoint, args.output_dir)
        except RecipeError as error:
            found[1] = str(error)
    broadcast_object_list(found)  # every process goes on from the same one
    path, problem = found
    if problem:
        raise RecipeError(problem)
    if main and path is None:
        _remove(Path(args.output_dir), getattr(trainer, "leaves", ()))
    args.resume_from_checkpoint = None  # it is saved with the model, which is that of an undisturbed run
    follow(trainer)
    trainer.train(resume_from_checkpoint=path)
    if (gates := getattr(trainer, "gates", None)) and gates.shut:
        raise GateShut(gates.shut)
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if step > steps:
        raise RecipeError(
            f"resume_from_checkpoint: found {path} of step {step}, expected one of at most {steps} steps, all that is "
            "asked for; start afresh in another output_dir, or raise max_steps or num_train_epochs"
        )
    if step < steps:
        if main:
            write_json(note, {"step": step, "max_steps": steps})
        raise StoppedEarly(
            f"stopped early at step {step} of {steps}; the same command goes on with resume_from_checkpoint: last"
        )


def _remove(output: Path, patterns: Sequence[str]) -> None:
    """Takes away what an earlier run left in the folder and this one may not write over."""
    for found in [file for pattern in patterns for file in output.glob(pattern)]:
        shutil.rmtree(found) if found.is_dir() else found.unlink()


def checkpoints_of(output_dir: str | Path) -> list[Path]:
    """The folders of a run's checkpoints, in their order."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def resume_path(setting: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint to resume from: a path as given, or for `last` the newest whole one in `output_dir`.

    Those passed over are named; where none is whole, the run starts afresh.

    Raises:
        RecipeError: a path that is no directory, or no whole checkpoint; none, where an earlier run left some.
    """
    folders = checkpoints_of(output_dir)
    if setting in LAST:
        for folder in reversed(folders):
            if (problem := damage(folder)) is None:
                return str(folder)
            say(f"resume_from_checkpoint: {folder.name} is not whole, an older one is taken: {problem}")
        if folders:
            say(f"resume_from_checkpoint: no checkpoint of {output_dir} is whole, training starts afresh")
        return None
    if not setting and folders:
        raise RecipeError(
            f"output_dir: found {folders[-1]} of an earlier run, which would be taken for this one's, expected none; "
            "go on from it with resume_from_checkpoint: last, remove it, or name another output_dir"
        )
    if not setting:
        return None
    if not Path(setting).is_dir():
        raise RecipeError(f"resume_from_checkpoint: found no directory {setting!r}, expected a checkpoint or last")
    if problem := damage(Path(setting)):
        raise RecipeError(f"resume_from_checkpoint: {problem}; name another checkpoint, or last for the newest whole")
    return setting


def incomplete(folder: Path) -> str | None:
    """What is wrong with a checkpoint's weights, naming the file; None where nothing is. No run need go on from it."""
    return _unlike_manifest(folder) or _state(folder) or _cut(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint of Trainer's, naming the file; None for a whole one.

    Of one with a manifest (`trainers.continuing`) every file is compared; of an older one, what shows from outside.
    """
    return _unlike_manifest(folder) or _state(folder) or _missing(folder) or _cut(folder)


def _unlike_manifest(folder: Path) -> str | None:
    if not (folder / MANIFEST).is_file():
        return None
    found = _json(folder / MANIFEST)
    files = found.get("files") if isinstance(found, dict) else None
    if not is_manifest(files):
        return f"{folder / MANIFEST}: found no list of files"
    return changed(folder, files, content=True)


def _json(path: Path):
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _state(folder: Path) -> str | None:
    path = folder / "trainer_state.json"
    if not path.is_file():
        return f"{path}: found no such file, expected one; it is written last"
    found = _json(path)
    step = found.get("global_step") if isinstance(found, dict) else None
    return None if type(step) is int else f"{path}: found no global_step, expected a whole file"


def _missing(folder: Path) -> str | None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    for what, patterns in _wanted(folder, names).items():
        if not any(re.fullmatch(pattern, name) for pattern in patterns for name in names):
            return f"{folder}: found no {what}, without which no run goes on exactly (save_only_model leaves it out)"
    ranks = [{int(found[1]) for name in names if (found := re.fullmatch(of, name))} for of in OF_EACH_PROCESS]
    last = max(set().union(*ranks), default=0)
    if ranks[0]:  # one process alone has no number
        last = max(last, 1)
    for found in filter(None, ranks):
        if missing := set(range(last + 1)) - found:
            return f"{folder}: found files of {len(found)} processes, but not of process {min(missing)}"
    return None


def _wanted(folder: Path, names: set[str]) -> dict[str, tuple[str, ...]]:
    """What has to be there, by what to call it: patterns of names, one of which is enough."""
    wanted = {"rng_state.pth": (r"rng_state(_\d+)?\.pth",)}
    sharded = any(name.startswith("pytorch_model_fsdp") for name in names)
    if "latest" in names:  # DeepSpeed's
        shards = re.escape((folder / "latest").read_text("utf-8", "replace").strip())
        return wanted | {
            f"{shards}/*{kind}.pt": (rf"{shards}/.*{kind}\.pt",) for kind in ("model_states", "optim_states")
        }
    wanted["scheduler.pt"] = (r"scheduler\.pt",)
    if sharded:
        return wanted | {"optimizer.bin": (r"optimizer\.bin", "optimizer_0/.+")}
    wanted |= {"optimizer.pt": (r"optimizer\.pt",), "weights": tuple(map(re.escape, WEIGHTS))}
    if "value_model" in names or any(name.startswith("rollout_") for name in names):  # PPO's
        wanted["value_model"] = tuple(f"value_model/{re.escape(name)}" for name in WEIGHTS)
        wanted["rollout_0.pt"] = (r"rollout_0\.pt",)
    return wanted


def _cut(folder: Path) -> str | None:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as tensors:
                    tensors.keys()
            except (SafetensorError, OSError) as error:
                return f"{path}: found weights that cannot be read ({error})"
        elif path.suffix in PICKLED and path.name != "training_args.bin" and not zipfile.is_zipfile(path):
            return f"{path}: found {path.stat().st_size} bytes that are no whole file of PyTorch's"
        elif path.name.endswith(".index.json"):
            found = _json(path)
            if not isinstance(found, dict) or not isinstance(found.get("weight_map"), dict):
                return f"{path}: found no weight_map, expected a whole file"
            for name in sorted({str(name) for name in found["weight_map"].values()}):
                if not (path.parent / name).is_file():
                    return f"{path.parent / name}: found no such file, which {path.name} names"
    return None

"""Kills a pretraining run of three stages at random moments and compares what it leaves with an undisturbed one's.

python -m tests.pretraining.kills --kills 20 --config cpu_zero3 --seed 0
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.launch.conftest import COMMON, CONFIGS, PROJECT, environment, make_workshop, stages
from tests.launch.test_stages import OPTIONS, sources

LEFT_OUT = ("checkpoint-", "tokens", "output.log")  # what every start says is in the last


def command(workshop: Path, output: Path, config: str) -> list[str]:
    """The launch of a run that goes on from its last checkpoint."""
    settings = stages(workshop)["pretrain"] | COMMON | OPTIONS | {"datasets": sources(workshop)}
    settings |= {"output_dir": str(output), "save_steps": 1, "per_device_train_batch_size": 2}
    settings["resume_from_checkpoint"] = "last"
    file = workshop / "kills.yaml"
    file.write_text(yaml.safe_dump(settings))
    processes = 1 if config == "cpu_single" else 2
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{config}.yaml"]
    launch += ["--main_process_port", "0", "--num_processes", "2"] if processes > 1 else []
    launch += [PROJECT / "tests" / "launch" / "as_on_gpus.py"] if config == "fsdp2" else []
    return [str(part) for part in [*launch, PROJECT / "recipes" / "pretrain.py", "--config", file]]


def files_of(folder: Path) -> dict[str, bytes]:
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if not name.parts[0].startswith(LEFT_OUT)}


def steps_of(output: Path) -> int:
    return max((int(path.name[11:]) for path in output.glob("checkpoint-*")), default=0)


def killed(line: list[str], workshop: Path, output: Path, draw: random.Random) -> bool:
    """Whether the run was killed, a random moment after its next checkpoint began to be there."""
    run = subprocess.Popen(
        line,
        cwd=workshop,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before, wait = steps_of(output), draw.uniform(0, 1)
    while run.poll() is None and steps_of(output) == before:
        time.sleep(0.02)
    end = time.monotonic() + wait
    while run.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if run.poll() is not None:
        if run.returncode:
            raise SystemExit(f"the run ended with {run.returncode}: {' '.join(line)}")
        return False
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--config", default="cpu_single", help="of accelerate_configs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        workshop = make_workshop(Path(folder))
        output = workshop / "run"
        line = command(workshop, output, args.config)
        subprocess.run(line, cwd=workshop, env=environment(), check=True, stdout=subprocess.DEVNULL)
        whole, kills, runs = files_of(output), 0, 0
        shutil.rmtree(output)
        while kills < args.kills or steps_of(output):
            if kills < args.kills and killed(line, workshop, output, draw):
                kills += 1
                print(f"kill {kills} behind step {steps_of(output)}", flush=True)
                continue
            subprocess.run(line, cwd=workshop, env=environment(), check=True, stdout=subprocess.DEVNULL)
            found = files_of(output)
            if wrong := sorted(name for name in whole | found if whole.get(name) != found.get(name)):
                raise SystemExit(f"after {kills} kills other bytes in {', '.join(wrong)}")
            runs += 1
            shutil.rmtree(output)
        print(f"{args.config}: {kills} kills, {runs} runs, {len(whole)} files the same byte for byte")


if __name__ == "__main__":
    main()

"""Side-by-side measurements: alternating runs in one process, peak memory in fresh ones."""

import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from tqdm import tqdm


def alternate(variants: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every variant, run in turn `repeats` times: what disturbs one disturbs the others too."""
    gc.collect()  # trainers of an earlier table hold gigabytes in cycles
    seconds = {name: [] for name in variants}
    with tqdm(total=(repeats + warm_up) * len(variants), leave=False, disable=None) as bar:
        for turn in range(repeats + warm_up):
            for name, run in variants.items():
                bar.set_description(name)
                start = time.perf_counter()
                run()
                if turn >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    return seconds


def table(title: str, seconds: dict[str, list[float]], work: int, unit: str, ours: str = "ours") -> list[dict]:
    """Prints medians and how many times slower than `ours` every variant is, with the range over single turns."""
    print(f"\n{title}  ({len(seconds[ours])} turns)")
    rows = []
    for name, times in seconds.items():
        turns = sorted(other / own for other, own in zip(times, seconds[ours], strict=True))
        row = {
            "title": title,
            "variant": name,
            "seconds": statistics.median(times),
            "ratio": statistics.median(times) / statistics.median(seconds[ours]),
            "lowest": turns[0],
            "highest": turns[-1],
        }
        rate = f"{work / row['seconds']:10.0f} {unit}/s"
        ratio = f"{row['ratio']:6.2f}x  [{row['lowest']:.2f}, {row['highest']:.2f}]" if name != ours else ""
        print(f"  {name:44s} {row['seconds'] * 1e3:10.1f} ms {rate} {ratio}", flush=True)
        rows.append(row)
    return rows


def peak() -> float:
    """Most memory this process has held, MB; `getrusage` begins with what the parent held."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def resident() -> float:
    """Memory this process holds now, MB, what it has freed given back."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def in_fresh_process(script: str, *arguments: str) -> dict:
    """Runs `script --child arguments` alone and returns the JSON of its last line."""
    command = [sys.executable, script, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def about() -> None:
    """Prints what the figures were taken on."""
    import transformers
    import trl

    with open("/proc/cpuinfo") as lines:
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
    print(f"{name}, {torch.get_num_threads()} threads, {versions}")

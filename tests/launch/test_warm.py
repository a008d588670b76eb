"""Forked launches are given and end with what those in interpreters of their own are."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from llama_align.runtime.lineage import birth

from .conftest import CONFIGS, environment
from .warm import LAUNCHER

SAYS = """
import json, os, pathlib, sys
rank = os.environ["RANK"]
said = [sys.argv[2:], __name__, sys.path[0], os.getcwd(), os.getpid() == os.getsid(0), dict(os.environ)]
pathlib.Path(f"{sys.argv[1]}-{rank}").write_text(json.dumps(said))
"""
ENDS = """
import os, pathlib, sys, time
place = pathlib.Path(sys.argv[1])
(place / os.environ["RANK"]).write_text(str(os.getpid()))
while len(list(place.iterdir())) < 2:
    time.sleep(0.01)
if sys.argv[2] == os.environ["RANK"]:
    os.kill(os.getpid(), 9)
time.sleep(60)
"""


def command(script: Path, *arguments) -> list:
    return [*LAUNCHER, "--config_file", CONFIGS / "cpu_zero3.yaml", "--main_process_port", "0", script, *arguments]


def test_a_forked_rank_is_given_what_the_launcher_gives(warm, tmp_path):
    script = tmp_path / "says.py"
    script.write_text(SAYS)
    for fresh in (True, False):
        warm.run(command(script, tmp_path / str(fresh), "-u"), environment(), tmp_path, fresh=fresh).check_returncode()
    for rank in "01":
        one, other = (json.loads((tmp_path / f"{fresh}-{rank}").read_text()) for fresh in (True, False))
        assert one[:-1] == other[:-1]
        assert one[-1]["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"
        assert one[-1]["RANK"] == rank
        changed = {key for key in one[-1] | other[-1] if one[-1].get(key) != other[-1].get(key)}
        # the last is set while CUDA is looked for, which a process does once
        assert changed <= {"MASTER_PORT", "TORCHELASTIC_ERROR_FILE", "PYTORCH_NVML_BASED_CUDA_CHECK"}


@pytest.mark.parametrize("killed", ["1", "none"])
def test_no_rank_is_left_behind(warm, tmp_path, killed):
    """Neither by one that was killed nor by a launch that took too long."""
    (tmp_path / "ends.py").write_text(ENDS)
    (tmp_path / "pids").mkdir()
    line = command(tmp_path / "ends.py", tmp_path / "pids", killed)
    if killed == "none":
        with pytest.raises(subprocess.TimeoutExpired):
            warm.run(line, environment(), timeout=10)
    else:
        done = warm.run(line, environment())
        assert done.returncode == 1
        assert "exitcode: -9" in done.stderr.replace("exitcode  :", "exitcode:")
    pids = [int(file.read_text()) for file in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    until = time.monotonic() + 10
    while any(map(birth, pids)):
        assert time.monotonic() < until
        time.sleep(0.05)

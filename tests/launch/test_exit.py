"""Two processes end without a thread of their group, which could abort while Python ends; several times over."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import environment

SCRIPT = Path(__file__).with_name("ends.py")


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_end_cleanly(fails, time):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-W", "ignore", SCRIPT, "--fails", str(fails)]
    processes = [
        subprocess.Popen(
            command,
            env=environment() | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        stderr = process.communicate(timeout=200)[1]
        assert process.returncode == (2 if fails else 0), stderr
        assert "gloo threads: 0" in stderr
        assert "terminate called" not in stderr
    assert os.environ.get("WORLD_SIZE") is None, "nothing of this reached the tests themselves"

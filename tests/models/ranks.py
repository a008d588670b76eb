"""Runs a function on several processes of this machine that talk through gloo, as torchrun would."""

import os
import socket
from collections.abc import Callable
from functools import wraps

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def start_processes(function: Callable, args: tuple, nprocs: int) -> None:
    """`function(rank, *args)` in each process. Forked: a new interpreter would take longer to start than to run."""
    mp.start_processes(function, args=args, nprocs=nprocs, start_method="fork")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _join(rank: int, function: Callable, args: tuple, world_size: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int) -> Callable:
    """Decorates `function(rank, *args)`: a call runs it on `world_size` ranks and raises what any of them raised."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def run(*args) -> None:
            start_processes(_join, (function, args, world_size, _free_port()), world_size)

        return run

    return decorate

"""Processes that do not outlive the one that answers for them.

A run's manager starts a step, which a launcher may start in several processes. When any of them is killed, those below
it must not write on beside a run that goes on from there. Linux alone can promise that; elsewhere these functions do
nothing, and a killed manager's step has to be stopped by hand.
"""

import ctypes
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MANAGED = "LLAMA_ALIGN_MANAGED"  # of a step's processes: the manager's id and birth, and the file they hold
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # network file systems, as they are often mounted
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_held = []  # open while this process lives


def die_with(parent: int) -> Callable[[], None]:
    """What a new process calls first (`preexec_fn`) to be killed as soon as its parent ends."""

    def promise() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before the promise was made
                os._exit(1)

    return promise


def attend(parent: int) -> None:
    """What a worker of a pool calls first: an interrupt is for its parent, which it does not outlive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)()


def adopt(orphans: bool) -> None:
    """Whether what a launcher that is killed leaves behind becomes this process's, not the system's."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, int(orphans))


def end_all_but(kept: Callable[[], set[int]], within: float = 10.0) -> None:
    """Kills all processes below this one, whoever started them, but those that are kept when they are looked for."""
    until = time.monotonic() + within
    while (left := set(descendants(os.getpid())) - kept()) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def marked(pid: int, name: str, value: str) -> bool:
    """Whether a process was started with this variable in its environment."""
    with suppress(OSError):
        return f"{name}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def in_group(pid: int, group: int) -> bool:
    """Whether a process is of this group."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == group
    return False


def birth(pid: int) -> str | None:
    """When a process was started, which tells it from a later one of the same id; None where it has ended."""
    fields = _fields(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _fields(pid: int) -> list[str]:
    # from the third on: the second, the command in brackets, may hold anything
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def descendants(pid: int) -> list[int]:
    """Processes below one, parents before their children."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(folder.name))
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def terminate(pid: int) -> None:
    """Asks a step to stop: the processes that do the work, which a launcher would not tell all of them."""
    below = descendants(pid)
    for one in below or [pid]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGTERM)


def locked(file, how: int) -> bool:
    """Locks a file as `fcntl.flock` does; False where another holds it. A file system without locks grants all."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True


def managed(lock: Path) -> dict[str, str]:
    """Environment of the processes that this one answers for."""
    return {MANAGED: f"{os.getpid()} {birth(os.getpid())} {lock}"}


def answer_to_manager() -> None:
    """Ties this process to the manager that started it, if one did: to its life, and to the run's lock.

    Raises:
        SystemExit: the manager has ended.
    """
    if MANAGED not in os.environ or _libc is None:
        return
    pid, born, lock = os.environ[MANAGED].split(" ", 2)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _held.append(open(lock, "a"))  # noqa: SIM115
    locked(_held[-1], fcntl.LOCK_SH)
    # a launcher's processes are not the manager's own, and what they missed while they started they learn here
    if birth(int(pid)) != born:
        sys.exit("error: the run that started this step has ended")

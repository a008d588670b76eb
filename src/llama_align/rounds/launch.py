"""One step as a process: what it prints, who may write in a run's folder, and that nobody writes on alone."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..recipe import RecipeError
from ..runtime.lineage import die_with, managed, none_left, terminate

PATIENCE = 3.0  # seconds that the processes of a killed run take to end
GRACE = 10.0  # seconds for a step to end by itself after an interrupt


@dataclass
class Lock:
    """A run's folder held by one manager, and by the processes of the step it started.

    `.lock` is the manager's and, inherited, the step's own; `.writers` is shared by those that a launcher starts. All
    are let go when the last of them ends, however it ends.
    """

    folder: Path
    files: list = field(default_factory=list)

    def __enter__(self) -> "Lock":
        lock = self._take(".lock", "another process runs in this directory, expected to be alone")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        # whoever holds this after its manager's end is of a step that is being killed
        self._take(".writers", "processes of an earlier run still work in this directory").close()
        return self

    def __exit__(self, *_) -> None:
        for file in self.files:
            file.close()

    def _take(self, name: str, otherwise: str):
        file = (self.folder / name).open("a+")
        self.files.append(file)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > until:
                    file.seek(0)
                    owner = file.read().strip()
                    raise RecipeError(
                        f"{self.folder}: {otherwise}" + (f" (process {owner})" if owner else "")
                    ) from None
                time.sleep(0.05)

    @property
    def inherited(self) -> tuple[int, ...]:
        """Files that a step's process holds, too."""
        return tuple(file.fileno() for file in self.files if not file.closed)

    @property
    def environment(self) -> dict[str, str]:
        """What ties a step's processes to this one."""
        return managed((self.folder / ".writers").resolve())


@contextmanager
def forwarding(process: subprocess.Popen) -> Iterator[list[int]]:
    """SIGTERM goes to the step, which may save what it has. Yields the signals that came."""
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def forward(number, _) -> None:
        came.append(number)
        terminate(process.pid)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def run_logged(command: Sequence[str], log: Path, lock: Lock) -> tuple[int, bool]:
    """Runs a command whose output goes to the terminal and to a file.

    Returns:
        Its exit code, and whether SIGTERM came to this process meanwhile.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | lock.environment
    with _Tee(log) as tee, none_left():
        process = subprocess.Popen(
            command,
            stdout=tee.end,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=lock.inherited,
            preexec_fn=_begin(os.getpid()),
        )
        try:
            with forwarding(process) as came:
                code = process.wait()
        except BaseException:
            tee.quiet = True  # what a step says while it is interrupted is in its log
            terminate(process.pid)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    return code, bool(came)


def _begin(manager: int):
    promise = die_with(manager)

    def begin() -> None:
        # Ctrl-C reaches all processes of a terminal; this one's manager ends it, so that nobody tells of it but once
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        promise()

    return begin


class _Tee:
    """A pipe whose content goes to the terminal and to the end of a file."""

    def __init__(self, log: Path):
        self.log, self.quiet = log, False
        out, self.end = os.pipe()
        self._out = os.fdopen(out, "rb")
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def __enter__(self) -> "_Tee":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        os.close(self.end)
        self._thread.join(GRACE)

    def _copy(self) -> None:
        with self.log.open("ab", buffering=0) as file, self._out:
            full = False
            while chunk := self._out.read1(65536):
                if not self.quiet:
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
                try:
                    full = full or file.write(chunk) < len(chunk)
                except OSError as error:
                    full = True
                    print(f"{self.log}: {error.strerror}; what follows is on the terminal alone", flush=True)

"""Steps as processes: what they print, who may write in a run's folder, and that nobody writes on alone."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..recipe import RecipeError
from ..runtime.lineage import adopt, descendants, die_with, end_all_but, in_group, locked, managed, marked, terminate
from ..runtime.progress import FILE
from .display import PROGRESS
from .forked import ForkedStep, Nursery
from .lease import Lease

PATIENCE = 3.0  # seconds that the processes of a killed run take to end
GRACE = 10.0  # seconds for a step to end by itself after an interrupt
TICK = 0.02  # seconds between two looks at who has ended
MARK = "LLAMA_ALIGN_STEP"  # environment of a step's processes: its name


@dataclass
class Lock:
    """A run's folder held by one manager, and by the processes of the step it started.

    The lease names the manager, on all machines. `.lock` is the manager's and, inherited, the step's own; `.writers` is
    shared by those that a launcher starts. These two are let go when the last of them ends, however it ends; a file
    system without locks does without them.
    """

    folder: Path
    files: list = field(default_factory=list)

    def __enter__(self) -> "Lock":
        self.lease = Lease(self.folder)
        self.lease.take()
        try:
            # whoever holds these after its manager's end is of a step that is being killed
            self._take(".lock")
            self._take(".writers").close()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for file in self.files:
            file.close()
        self.lease.give_back()

    def _take(self, name: str):
        file = (self.folder / name).open("a")
        self.files.append(file)
        until = time.monotonic() + PATIENCE
        while not locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > until:
                raise RecipeError(f"{self.folder}: processes of an earlier run still work in this directory")
            time.sleep(0.05)
        return file

    @property
    def inherited(self) -> tuple[int, ...]:
        """Files that a step's process holds, too."""
        return tuple(file.fileno() for file in self.files if not file.closed)

    @property
    def environment(self) -> dict[str, str]:
        """What ties a step's processes to this one."""
        return managed((self.folder / ".writers").resolve())


@dataclass
class _Work:
    process: subprocess.Popen | ForkedStep
    tee: "_Tee"


@dataclass
class Crew:
    """The steps at work at one time. When one ends, or this does, no process of it is left, whoever started it.

    SIGTERM goes on to all of them, which may save what they have; `came` says that it did. What they print goes to
    their logs alone unless all is asked for (`verbose`).

    Args:
        most: how many there may be. nursery: what steps are forked from, where they may be. watch: called while they
            are waited for.
    """

    lock: Lock
    most: int = 1
    nursery: Nursery | None = None
    verbose: bool = False
    watch: Callable[[], None] = lambda: None
    came: bool = False
    works: dict[str, _Work] = field(default_factory=dict)

    def __enter__(self) -> "Crew":
        self._before = set(descendants(os.getpid()))
        adopt(True)
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._handler = signal.signal(signal.SIGTERM, self._forward)
        return self

    def __exit__(self, *_) -> None:
        self._stop()
        if self.nursery:
            self.nursery.close()
        end_all_but(lambda: self._before)
        adopt(False)
        if self._main:
            signal.signal(signal.SIGTERM, self._handler)

    def _forward(self, *_) -> None:
        self.came = True
        for work in self.works.values():
            terminate(work.process.pid)

    def start(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        alone: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Starts a step's process, whose output goes to the end of a file, and which tells beside it how far it is.

        Args:
            alone: in an interpreter of its own, whatever the nursery; else `command` is a script of Python's.
            environment: what the process has beside this one's.
        """
        environment = {**environment, MARK: name, FILE: str(log.with_name(PROGRESS))} | self.lock.environment
        begin, tee = _begin(os.getpid()), _Tee(log, not self.verbose)
        try:
            if self.nursery and not alone:
                process = self.nursery.start(command[1:], tee.end, environment, begin)
            else:
                process = subprocess.Popen(
                    command,
                    stdout=tee.end,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
                    pass_fds=self.lock.inherited,
                    preexec_fn=begin,
                )
        except BaseException:
            tee.close()
            raise
        self.works[name] = _Work(process, tee)
        if self.came:  # between the start and here
            terminate(process.pid)

    def wait(self) -> tuple[str, int]:
        """Name and exit code of the next step that ends.

        Raises:
            RecipeError: another manager has taken over.
        """
        while True:
            if self.lock.lease.lost:
                raise RecipeError(self.lock.lease.lost)
            for name, work in self.works.items():
                if (code := work.process.poll()) is not None:
                    del self.works[name]
                    end_all_but(self._kept)
                    work.tee.close()
                    return name, code
            self.watch()
            time.sleep(TICK)

    def _kept(self) -> set[int]:
        kept = {*self._before, self.nursery and self.nursery.pid}
        for work in self.works.values():
            kept |= {work.process.pid, *descendants(work.process.pid)}
        orphans = set(descendants(os.getpid())) - kept if self.works else ()
        return kept | {pid for pid in orphans if any(self._is_of(pid, name) for name in self.works)}

    def _is_of(self, pid: int, name: str) -> bool:
        # a fork has the environment of the nursery for all that /proc knows, but a group of its own
        return marked(pid, MARK, name) or in_group(pid, self.works[name].process.pid)

    def _stop(self) -> None:
        for work in self.works.values():
            work.tee.quiet = True  # what a step says while it is interrupted is in its log
            terminate(work.process.pid)
        until = time.monotonic() + GRACE
        for work in self.works.values():
            try:
                work.process.wait(max(0.01, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                work.process.kill()
                work.process.wait()
            work.tee.close()
        self.works.clear()


def _begin(manager: int):
    promise = die_with(manager)

    def begin() -> None:
        # Ctrl-C reaches all processes of a terminal; this one's manager ends it, so that nobody tells of it but once
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        promise()

    return begin


class _Tee:
    """A pipe whose content goes to the terminal and to the end of a file."""

    def __init__(self, log: Path, quiet: bool):
        self.log, self.quiet = log, quiet
        out, self.end = os.pipe()
        self._out = os.fdopen(out, "rb")
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for what is still to be copied; the processes that write here have ended."""
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

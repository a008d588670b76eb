"""Who may write in a run's folder, on file systems that several machines share.

A lease is a file `.lease-<n>` that names its holder. It is made only where there is none of that name (O_EXCL), and the
one of the highest number holds. Its holder renews the file's time; it has ended when its process has, seen from the
same machine, or when it was not renewed for `EXPIRY` seconds by the file system's own clock, seen from any. Nothing is
locked: a machine that is gone keeps nobody out for longer than that, and a holder that was only cut off learns that
another has taken over, and stops.
"""

import json
import os
import platform
import re
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ..recipe import RecipeError
from ..runtime.files import naming
from ..runtime.lineage import birth

RENEWAL = 15.0  # seconds between two renewals
EXPIRY = 120.0  # seconds without one after which others may take over
NAME = re.compile(r"\.lease-(\d+)")


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease. machine: the boot and the space of process ids. born: as `lineage.birth` has it."""

    host: str
    machine: str
    pid: int
    born: str | None
    since: str

    @classmethod
    def this(cls) -> "Holder":
        """This process."""
        pid = os.getpid()
        return cls(platform.node(), _machine(), pid, birth(pid), time.strftime("%Y-%m-%d %H:%M:%S"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@cache
def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return platform.node()


def holder(folder: Path) -> Holder | None:
    """Who holds a folder now."""
    number = _newest(folder)
    return _standing(folder, number) if number else None


def _newest(folder: Path) -> int:
    numbers = (int(found[1]) for path in folder.glob(".lease-*") if (found := NAME.fullmatch(path.name)))
    return max(numbers, default=0)


def _standing(folder: Path, number: int) -> Holder | None:
    """The holder that a lease names, None where it has ended."""
    path = folder / f".lease-{number}"
    try:
        age = _now(folder) - path.stat().st_mtime
    except FileNotFoundError:  # given back meanwhile
        return None
    try:
        found = Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # being written, or never was
        found = Holder("a machine unknown", "", 0, None, "a moment unknown")
    if found.machine == _machine() and (found.born is not None or found.host == found.machine):
        return found if _lives(found) else None
    return found if age < EXPIRY else None


def _lives(found: Holder) -> bool:
    if found.born is not None:
        return birth(found.pid) == found.born
    with suppress(ProcessLookupError):
        os.kill(found.pid, 0)
        return True
    return False


def _now(folder: Path) -> float:
    """The time by the clock that a folder's files have theirs from."""
    probe = folder / f".clock.{platform.node()}.{os.getpid()}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # whoever may only read takes his own
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


class Lease:
    """A folder's lease, renewed until it is given back. `lost` says why it is not this process's any more."""

    def __init__(self, folder: Path):
        self.folder, self.lost = folder, ""
        self._over = threading.Event()

    def take(self) -> None:
        """Takes the lease.

        Raises:
            RecipeError: another process holds it.
        """
        while True:
            before = _newest(self.folder)
            if before and (found := _standing(self.folder, before)):
                raise RecipeError(
                    f"{self.folder}: another process runs in this directory, expected to be alone ({found})"
                )
            self.number = before + 1
            if self._made(before):
                break
            time.sleep(0.05)  # a listing of files may be old
        threading.Thread(target=self._renew, daemon=True).start()

    def _made(self, before: int) -> bool:
        """Makes the file; whether nobody else did at the same time."""
        try:
            with naming(self.path), self.path.open("x") as file:
                json.dump(asdict(Holder.this()), file)
        except FileExistsError:
            return False
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        others = {path.name for path in self.folder.glob(".lease-*")} - {self.path.name, f".lease-{before}"}
        if others or _standing(self.folder, before):  # made after this process had looked
            self.path.unlink(missing_ok=True)
            return False
        (self.folder / f".lease-{before}").unlink(missing_ok=True)
        return True

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f".lease-{self.number}"

    def give_back(self) -> None:
        """Ends the lease."""
        self._over.set()
        if not self.lost:
            self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(RENEWAL):
            try:
                if _newest(self.folder) != self.number:
                    self.lost = f"{self.folder}: {holder(self.folder) or 'nobody'} holds it now; this run was cut off"
                    return
                os.utime(self.path)
                renewed = time.monotonic()
            except OSError as error:
                if time.monotonic() - renewed > EXPIRY / 2:
                    self.lost = f"{self.path}: could not be renewed ({error.strerror}); others may take over soon"
                    return

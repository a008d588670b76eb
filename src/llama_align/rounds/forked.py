"""Steps forked from one process that has imported what they need, so that start-up is paid once for a whole plan.

That process, the nursery, does nothing but import and fork: it has no thread of its own, it draws no random number and
loads no model. A step forked from it is a child of the manager, as one of an interpreter of its own is: it is
forked twice, and what the first fork leaves behind the manager adopts. Linux alone has that.

Where there is a GPU every step keeps its own process: a library that looks for one while it is imported leaves CUDA
unusable in all forks.
"""

import ast
import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..recipe import RecipeError
from ..runtime.lineage import die_with

GPUS = ("/dev/nvidiactl", "/dev/kfd")
LONGEST = 1 << 20  # bytes of a request
# what recipes and libraries import only when they need it, seconds of every step
LATER = (
    *("datasets", "matplotlib.figure", "matplotlib.backends.backend_svg", "rich.console"),
    *(f"llama_align.recipe.{name}" for name in ("engines", "options", "results", "resuming", "start")),
    *("transformers.trainer", "transformers.models.auto.modeling_auto", "trl.trainer.utils"),
)


def hindrance() -> str | None:
    """Why steps cannot be forked on this machine; None where they can."""
    if sys.platform != "linux":
        return f"found {sys.platform}, expected linux"
    found = next((path for path in GPUS if os.path.exists(path)), None)
    return found and f"found a GPU ({found})"


class ForkedStep:
    """A step's process, as much of `subprocess.Popen` as the manager needs."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it lives."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.002)
        return code

    def kill(self) -> None:
        """Ends it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The process that steps are forked from; started with the first of them, again where it was killed.

    Args:
        scripts: recipes whose imports it has ready. inherited: files that it and all steps hold.
    """

    def __init__(self, scripts: Sequence[Path], inherited: Sequence[int]):
        self.scripts, self.inherited = scripts, inherited
        self._process: subprocess.Popen | None = None
        self._channel: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Its process, None before the first step."""
        return self._process and self._process.pid

    def start(self, argv: Sequence[str], output: int, environment: dict[str, str], begin: Callable[[], None]):
        """Forks a step that runs a script.

        Args:
            argv: the script and its arguments. output: file that takes what it prints. environment: what differs from
                this process's. begin: what the nursery calls first (`preexec_fn`).

        Raises:
            RecipeError: the nursery or the step ended before it had begun, twice.
        """
        request = {"argv": list(argv), "environment": environment, "manager": os.getpid()}
        for _ in range(2):  # it may have been killed since the step before
            if self._process is None or self._process.poll() is not None:
                self._open(output, begin)
            if pid := self._asked(json.dumps(request).encode(), output):
                return ForkedStep(int(pid))
            self.close()
        raise RecipeError("executor: the process that steps are forked from has ended; the same command goes on")

    def _asked(self, request: bytes, output: int) -> bytes:
        """The process of a step, which says so itself when it has begun; nothing where none has."""
        answer, theirs = os.pipe()
        try:
            try:
                socket.send_fds(self._channel, [request], [output, theirs])
            finally:
                os.close(theirs)
            return os.read(answer, 32)
        except BrokenPipeError:
            return b""
        finally:
            os.close(answer)

    def _open(self, output: int, begin: Callable[[], None]) -> None:
        self.close()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"from {__name__} import main; main({theirs.fileno()}, {[*map(str, self.scripts)]!r}, {LATER!r})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=output,  # until it has imported all; what goes wrong there the step that waits for it tells
                stderr=output,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                pass_fds=(theirs.fileno(), *self.inherited),
                preexec_fn=begin,
            )

    def close(self) -> None:
        """Ends the nursery; steps at work go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._channel.close()
            self._process = None


def main(channel: int, scripts: Sequence[str], later: Sequence[str]) -> None:
    """The nursery: imports, then forks for every request. Returns in the forks alone, when their script has ended."""
    sys.path.insert(0, str(Path(scripts[0]).parent))  # as of a script that Python starts
    interrupted: list[BaseException] = []
    atexit.register(_interrupt_again, interrupted)  # before all others, so that it comes last
    import_all(scripts, later)
    gc.collect()
    gc.freeze()  # pages that all forks share are not written to for being looked at
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nowhere, number)
    argv = _forked(socket.socket(fileno=channel))
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except KeyboardInterrupt as interrupt:
        interrupted.append(interrupt)
        raise


def _interrupt_again(interrupted: list[BaseException]) -> None:
    """Ends as Python ends after an interrupt, which it forgets where a library runs code at exit, as torch may."""
    if interrupted:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def import_all(scripts: Sequence[str], later: Sequence[str] = LATER) -> None:
    """What the scripts import at their beginning and what they import later; an import that fails fails in its step."""
    for script in scripts:
        with suppress(OSError, SyntaxError):
            for node in ast.parse(Path(script).read_text("utf-8")).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    _try(compile(ast.Module([node], []), script, "exec"))
    for name in later:
        _try(f"import {name}")


def _try(statement) -> None:
    with suppress(Exception):
        exec(statement, {"__name__": "__main__"})


def _forked(channel: socket.socket) -> list[str]:
    """Answers requests for good; in a step, whose output, environment and parent are set, its argv."""
    while True:
        message, files, *_ = socket.recv_fds(channel, LONGEST, 2)
        if not message:
            os._exit(0)
        if between := os.fork():
            os.waitpid(between, 0)
            for file in files:
                os.close(file)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)  # the step is an orphan now, and the manager adopts it
        channel.close()
        return _begun(json.loads(message), between, *files)


def _begun(request: dict, between: int, output: int, answer: int) -> list[str]:
    while os.getppid() == between:
        time.sleep(0.0005)
    die_with(request["manager"])()
    os.setpgid(0, 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.update(request["environment"])
    os.write(answer, str(os.getpid()).encode())
    os.close(answer)
    return request["argv"]

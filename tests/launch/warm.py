"""Commands that begin in an interpreter which has imported everything: forks of one process that only waits.

`accelerate launch` is its own code here, down to the call that starts a rank's process. That call wakes one of the
forks made before the launcher had a thread. What forks cannot show, another hash seed in every rank and imports under
the launcher's environment, is for the runs that `launch` starts afresh.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from llama_align.rounds.forked import LONGEST, ForkedStep, hindrance, import_all
from llama_align.runtime.lineage import die_with

PROJECT = Path(__file__).parents[2]
LAUNCHER = ["-m", "accelerate.commands.launch"]
RANKS = 2  # the most that a launch of these tests has
NUMBER = struct.Struct("i")


class Running:
    """A command at work, as much of `subprocess.Popen` as tests need; the leader of a session of its own."""

    def __init__(self, answer: int):
        self._answer = answer
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        return NUMBER.unpack(os.read(self._answer, NUMBER.size))[0]

    def poll(self) -> int | None:
        """The exit code, None while it lives."""
        if self.returncode is None and select.select([self._answer], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._answer], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("fork", timeout)
            self.returncode = self._number()
            os.close(self._answer)
        return self.returncode

    def kill(self) -> None:
        """Ends it at once, and with it what it forked."""
        os.kill(self.pid, signal.SIGKILL)


class Warm:
    """Starts commands, one at a time, as `subprocess` does; in interpreters of their own where forks have no GPU."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def _open(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=PROJECT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                preexec_fn=die_with(os.getpid()),
            )

    def start(self, command: Sequence, environment: dict[str, str], cwd=PROJECT, stdout=None, stderr=None, fresh=False):
        """Starts what `python *command` would; output goes to files, or nowhere. `fresh`: an interpreter of its own."""
        command = list(map(str, command))
        with open(os.devnull, "w") as nowhere:
            stdout, stderr = stdout or nowhere, stderr or nowhere
            if fresh or hindrance():
                line = [sys.executable, *command]
                return subprocess.Popen(line, env=environment, cwd=cwd, stdout=stdout, stderr=stderr)
            if self._process is None:
                self._open()
            answer, theirs = os.pipe()
            request = {"command": command, "environment": environment, "cwd": str(cwd)}
            files = [stdout.fileno(), stderr.fileno(), theirs]
            socket.send_fds(self._channel, [json.dumps(request).encode()], files)
            os.close(theirs)
        return Running(answer)

    def run(self, command: Sequence, environment: dict[str, str], cwd=PROJECT, timeout: float = 500, fresh=False):
        """`subprocess.run` of `python *command` with its output as text."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(command, environment, cwd, out, err, fresh)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

    def close(self) -> None:
        """Ends the process that is forked."""
        if self._process is not None:
            self._channel.close()
            self._process.wait()


class Rank(ForkedStep):
    """A process that waits for what it shall run."""

    def __init__(self):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        super().__init__(os.fork())
        if not self.pid:
            die_with(parent)()
            os.setsid()
            request = json.loads(theirs.recv(LONGEST))
            theirs.close()
            self._channel.close()
            begin(**request)
            sys.exit()

    def begin(self, command: Sequence[str], environment: dict[str, str]) -> "Rank":
        """Runs `python [-u] *command`; returns itself."""
        command = command[1 + (command[1] == "-u") :]
        self._channel.send(json.dumps({"command": command, "environment": environment}).encode())
        return self


def main(channel: socket.socket) -> None:
    """Imports, then forks for every request. Returns in the forks alone."""
    import_all(sorted(map(str, (PROJECT / "recipes").glob("*.py"))))
    for name in ("accelerate.commands.launch", "deepspeed", "torch.distributed.run"):
        importlib.import_module(name)
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    # a fork has but one thread; Arrow's allocator knows that and starts its own again
    assert len(threads) - threads.count("jemalloc_bg_thd") == 1, threads
    gc.collect()
    gc.freeze()
    server = os.getpid()
    while True:
        message, files, *_ = socket.recv_fds(channel, LONGEST, 3)
        if not message:
            os._exit(0)
        if pid := os.fork():
            os.write(files[2], NUMBER.pack(pid))
            os.write(files[2], NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            for file in files:
                os.close(file)
            continue
        die_with(server)()
        os.setsid()
        channel.close()
        for number, file in enumerate(files[:2], 1):
            os.dup2(file, number)
        for file in files:
            os.close(file)
        return begin(**json.loads(message))


def begin(command: list[str], environment: dict[str, str], cwd: str | None = None) -> None:
    """What `python *command` does."""
    os.environ.clear()
    os.environ.update(environment)
    if cwd:
        os.chdir(cwd)
    if command[:2] == LAUNCHER:
        launch(command[2:])
    elif command[0] == "-m":
        sys.argv = command[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


def launch(arguments: list[str]) -> None:
    """`accelerate launch *arguments`, whose processes are forked now, before it starts threads."""
    ranks = [Rank() for _ in range(RANKS)]
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    def popen(command, env):
        return ranks.pop(0).begin(command, env)

    SubprocessHandler._popen = lambda self, command, env: popen(command, env)
    launch.subprocess = SimpleNamespace(Popen=popen, CalledProcessError=subprocess.CalledProcessError)
    sys.argv = ["accelerate launch", *arguments]
    launch.main()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))

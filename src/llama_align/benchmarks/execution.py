"""Runs programs that a model wrote where they can do no harm: shut in by Linux, with limits, or not at all.

A program has no network, sees no process and starts none, has no environment, and can write nothing but an empty folder
in memory (enclosure.py). That this holds is tried before the first one is run.
"""

import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from . import enclosure

SECONDS = 10
MEMORY = 1 << 30  # bytes of address space
WRITTEN = 1 << 24  # bytes of files in all
MAKE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child")


class NotIsolatedError(OSError):
    """Programs cannot be shut in here."""


def run(program: str, seconds: int = SECONDS) -> bool:
    """Whether a Python program runs to its end without an error, in time and in bounds of memory.

    Raises:
        NotIsolatedError: this machine makes no namespaces for it.
    """
    word = os.urandom(16).hex()  # an exit code alone a program can make by ending early
    command = [*MAKE, sys.executable, "-I", "-S", enclosure.__file__, *map(str, (seconds, MEMORY, WRITTEN))]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        given.write(f"{word}\n{program}".encode())
        given.seek(0)
        try:
            process = subprocess.Popen(command, stdin=given, stdout=out, stderr=errors, env={}, start_new_session=True)
        except FileNotFoundError as error:
            raise NotIsolatedError(f"programs: found no {MAKE[0]}, expected util-linux's") from error
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        errors.seek(0)
        if code == enclosure.NOT_SHUT_IN or (code and errors.read(8) == b"unshare:"):
            raise NotIsolatedError("programs: found no namespaces for them here, expected a Linux that makes them")
        out.seek(max(out.seek(0, os.SEEK_END) - len(word), 0))
        return code == 0 and out.read() == word.encode()


@cache
def check_isolated() -> None:
    """Raises NotIsolatedError where a program could reach what it must not: each is tried."""
    if not run("import os; open('/tmp/one', 'w').write('x'); assert os.listdir('/tmp') == ['one']"):
        raise NotIsolatedError("programs: found that none ends here, expected namespaces of their own")
    beside = Path(__file__).with_name("written_by_a_program")
    escapes = {
        "write files": f"open({str(beside)!r}, 'w')",
        "open devices": "open('/dev/null', 'w')",
        "make sockets": "import socket; socket.socket(socket.AF_UNIX)",
        "start processes": "import os; os.fork() or os._exit(0)",
        "start threads": "import threading; threading.Thread(target=print).start()",
        "see other processes": "import os; assert len([n for n in os.listdir('/proc') if n.isdigit()]) > 1",
        "see an environment": "import os; assert 'HOME' in os.environ",
    }
    for name, program in escapes.items():
        if run(program):
            raise NotIsolatedError(f"programs: found that they can {name} here, expected that they cannot")


def passes(program: str) -> bool:
    """`run`, where programs are shut in."""
    check_isolated()
    return run(program)

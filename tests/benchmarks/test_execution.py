"""Programs that a model wrote run shut in, or not at all."""

import pytest

from llama_align.benchmarks import enclosure, execution
from llama_align.benchmarks.execution import NotIsolatedError, check_isolated, passes, run


@pytest.fixture(scope="module")
def shut_in():
    try:
        check_isolated()
    except NotIsolatedError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("shut_in")
@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("def add(a, b):\n    return a + b\nassert add(1, 2) == 3", True),
        ("assert 1 == 2", False),
        ("import math, re, collections, typing", True),
        ("import os; os._exit(0)", False),  # ends well, but not by coming to its end
        ("import sys; sys.exit(0)", False),
        ("open('/tmp/big', 'wb').write(bytes(1 << 25))", False),
        ("bytearray(1 << 31)", False),
        ("import subprocess; subprocess.run(['true'])", False),
        ("import socket; socket.socket()", False),
        (f"open({__file__!r}, 'a')", False),
        ("if True", False),
    ],
)
def test_a_program_passes_by_coming_to_its_end_within_bounds(program, right):
    assert passes(program) is right


@pytest.mark.usefixtures("shut_in")
def test_a_program_that_does_not_end_is_ended():
    assert not run("while True: pass", seconds=1)
    assert not run("import time; time.sleep(60)", seconds=1)


def test_nothing_is_run_where_nothing_shuts_in(monkeypatch):
    check_isolated.cache_clear()
    monkeypatch.setattr(execution, "MAKE", ("false",))
    with pytest.raises(NotIsolatedError, match="programs: found that none ends here"):
        passes("pass")
    monkeypatch.setattr(execution, "MAKE", ("there-is-no-such-program",))
    with pytest.raises(NotIsolatedError, match="found no there-is-no-such-program"):
        passes("pass")
    check_isolated.cache_clear()


def test_the_enclosure_touches_nothing_outside_new_namespaces():
    """Run by itself it would change the file systems of the machine."""
    assert not enclosure.shut_in(execution.WRITTEN)

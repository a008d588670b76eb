"""Leases: one holder at a time, by name, on one machine and on several, with locks and without."""

import errno
import fcntl
import json
import os
import signal
import threading
import time

import pytest

from llama_align.recipe import RecipeError
from llama_align.rounds import lease
from llama_align.rounds.launch import Lock
from llama_align.rounds.lease import Holder, Lease, holder

from .conftest import execute, journal, make_run, started, wait_for


def held_elsewhere(folder, number: int = 1, age: float = 0.0):
    """A lease of a machine that nothing else is known of, renewed so many seconds ago."""
    path = folder / f".lease-{number}"
    path.write_text(json.dumps(vars(Holder("far", "another", 7, "12", "2026-01-01 10:00:00"))))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_holder_is_named_and_gives_back(tmp_path):
    one = Lease(tmp_path)
    one.take()
    assert str(holder(tmp_path)) == f"process {os.getpid()} on {os.uname().nodename} since {holder(tmp_path).since}"
    with pytest.raises(RecipeError, match=rf"another process runs in this directory.*\(process {os.getpid()} on "):
        Lease(tmp_path).take()
    one.give_back()
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_machine_keeps_it_while_it_is_renewed(tmp_path):
    held_elsewhere(tmp_path, age=lease.EXPIRY - 30)
    with pytest.raises(RecipeError, match=r"process 7 on far since 2026-01-01 10:00:00"):
        Lease(tmp_path).take()
    held_elsewhere(tmp_path, age=lease.EXPIRY + 30)
    assert holder(tmp_path) is None
    one = Lease(tmp_path)
    one.take()
    assert one.number == 2
    assert [path.name for path in tmp_path.iterdir()] == [".lease-2"]
    one.give_back()


def test_a_process_that_has_ended_holds_nothing_however_young_its_lease(tmp_path):
    one = Lease(tmp_path)
    one.take()
    content = json.loads(one.path.read_text())
    one.path.write_text(json.dumps(content | {"born": "1"}))  # that id is another process's by now
    assert holder(tmp_path) is None
    one.path.write_text("")  # made, and its maker killed before it wrote
    assert "a machine unknown" in str(holder(tmp_path))
    one.give_back()


def test_one_of_many_takes_it(tmp_path):
    held_elsewhere(tmp_path, 3, lease.EXPIRY + 30)
    won, refused = [], []

    def take() -> None:
        one = Lease(tmp_path)
        try:
            one.take()
            won.append(one)
        except RecipeError:
            refused.append(one)

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 11)
    won[0].give_back()


def test_a_lease_that_was_taken_anew_between_two_looks_is_left_alone(tmp_path, monkeypatch):
    own = held_elsewhere(tmp_path, 1, lease.EXPIRY + 30)
    standing = lease._standing

    def look(folder, number):
        found = standing(folder, number)
        monkeypatch.setattr(lease, "_standing", standing)
        held_elsewhere(tmp_path, 1)  # ended and taken again under the same number, after this look
        return found

    monkeypatch.setattr(lease, "_standing", look)
    with pytest.raises(RecipeError, match="process 7 on far"):
        Lease(tmp_path).take()
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize("how", ["taken over", "removed"])
def test_a_holder_that_was_cut_off_learns_it_and_stops(place, monkeypatch, how):
    monkeypatch.setattr(lease, "RENEWAL", 0.05)
    (place / "slow").write_text("")
    manager = started(execute, place)
    wait_for(lambda: (place / "started").is_file())
    own = place / "run" / ".lease-1"
    before = own.stat().st_mtime_ns
    wait_for(lambda: own.stat().st_mtime_ns > before)  # it is renewed
    if how == "taken over":
        held_elsewhere(place / "run", 2)
    else:
        own.unlink()
    manager.join(30)
    who = "process 7 on far since 2026-01-01 10:00:00" if how == "taken over" else "nobody"
    assert (place / "outcome").read_text() == f"RecipeError: {place / 'run'}: {who} holds it now; this run was cut off"
    assert journal(place) == ["make", "use"]


def test_a_file_system_without_locks_has_the_lease_alone(place, monkeypatch):
    def unlocked(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unlocked)
    (place / "slow").write_text("")
    manager = started(execute, place)
    wait_for(lambda: (place / "started").is_file())
    with pytest.raises(RecipeError, match=rf"process {manager.pid} on "):
        make_run(place).execute()
    os.kill(manager.pid, signal.SIGKILL)
    manager.join(30)
    (place / "slow").unlink()
    make_run(place).execute()
    assert journal(place) == ["make", "use", "resume"]


def test_an_error_of_locking_that_means_something_else_is_one(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), Lock(tmp_path):
        pass
    assert holder(tmp_path) is None

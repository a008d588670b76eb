"""A list of work and its results among processes, the exchange itself stood in for."""

from llama_align.runtime import processes
from llama_align.runtime.processes import ALONE, Group


def test_shares_are_put_together_in_the_order_of_the_work(monkeypatch):
    work = list("abcdefg")
    group = [Group(index, 3) for index in range(3)]
    parts = [[f"{item}!" for item in one.share(work)] for one in group]
    monkeypatch.setattr(processes, "gather_object", lambda own: parts if own == [parts[1]] else None)
    assert group[1].joined(parts[1]) == [f"{item}!" for item in work]
    assert ALONE.joined(tuple(work)) == work


def test_the_main_process_is_heard_by_all(monkeypatch):
    monkeypatch.setattr(processes, "broadcast_object_list", lambda said: said.__setitem__(0, "from the main process"))
    assert Group(1, 2).heard() == "from the main process"
    assert ALONE.heard("said") == "said"

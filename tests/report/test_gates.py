"""Grids of needles as pictures, in the report and as files of their own."""

import pytest

from llama_align.data import RecordError
from llama_align.report.gates import gate_pictures, heat_map, needle_pictures
from llama_align.report.inputs import Step


def gate(hits: int) -> dict:
    grid = [
        {"length": length, "depth": depth, "probes": 6, "hits": hits if (length, depth) == (256, 0.5) else 6}
        for length in (128, 256)
        for depth in (0.0, 0.5, 1.0)
    ]
    return {"passed": hits == 6, "needles": {"missed": 6 - hits, "grid": grid}}


@pytest.fixture
def step(tmp_path):
    def make(gates) -> Step:
        return Step("pretrain", "pretrain", "finished", 1.0, tmp_path, {"gates": gates}, [], None)

    return make


def test_a_cell_with_a_miss_says_how_many_were_found(step):
    pictures = gate_pictures(step({"to 256": gate(2), "to <b>": gate(6)}))
    assert [picture.title for picture in pictures] == ["to 256: 4 needles missed", "to <b>: every needle found"]
    first, second = (str(picture.svg) for picture in pictures)
    assert "2/6" in first
    assert "/6" not in second
    assert all(text in second for text in ("128", "256", "50%", "depth of the needle"))
    assert "<b>" not in second
    files = needle_pictures({"to 256": gate(2), "to 512": gate(6)})
    assert list(files) == ["needles_1", "needles_2"]
    assert "var(--" not in files["needles_1"]
    assert str(heat_map("a", gate(6)["needles"]["grid"])) == str(heat_map("a", gate(6)["needles"]["grid"]))


def test_broken_gates_are_named_and_none_are_left_out(step):
    assert gate_pictures(step({})) == []
    broken = gate(6)
    del broken["needles"]["grid"][0]["hits"]
    with pytest.raises(RecordError, match=r"gates.long, needles.grid.*hits"):
        gate_pictures(step({"long": broken}))

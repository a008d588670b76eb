"""Files on a full disk, by a limit of the system's: the one that could not be written is named, and nothing is left."""

import multiprocessing
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from llama_align.data import write_jsonl
from llama_align.runtime.files import naming, write_json, write_text


def save_weights(path) -> None:
    with naming(path):
        save_file({"weight": torch.zeros(1000)}, path)


def save_pickled(path) -> None:
    with naming(path):
        torch.save({"weight": torch.zeros(1000)}, path)


WRITERS = {
    "text": lambda path: write_text(path, "a" * 3000),
    "json": lambda path: write_json(path, ["a" * 3000]),
    "rows": lambda path: write_jsonl(path, [{"text": "a" * 3000}]),
    "weights": save_weights,
    "pickled": save_pickled,
}


def limited(write, path, results) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write(path)
        message = "written"
    except OSError as error:
        message = str(error)
    results.send(message)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_finds_no_room_is_named(tmp_path, kind):
    path = tmp_path / "out.file"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=limited, args=(WRITERS[kind], path, theirs))
    process.start()
    message = ours.recv()
    process.join()
    assert str(path) in message
    assert "File too large" in message or "could not be written" in message
    if kind in ("text", "json", "rows"):
        assert list(tmp_path.iterdir()) == []


def test_other_errors_come_out_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="of another kind"), naming(tmp_path):
        raise RuntimeError("of another kind")
    with pytest.raises(FileNotFoundError, match=r"nowhere"), naming(tmp_path):
        open(tmp_path / "nowhere")  # noqa: SIM115

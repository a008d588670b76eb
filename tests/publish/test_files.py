"""Which files are published, whatever an index or a folder says."""

import json

import pytest

from llama_align.publish.files import Item, check_item, checkpoint_items, ours


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / ".env").write_text("KEY=1")
    (tmp_path / ".hidden.svg").write_text("<svg/>")
    (tmp_path / "loss.svg").write_text("<svg/>")
    return tmp_path


def index(folder, *files):
    table = {f"tensor{number}": file for number, file in enumerate(files)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_an_index_names_weights_and_nothing_else(folder):
    index(folder, ".env", "model-1.safetensors")  # stale beside one whole file, which is what transformers reads
    assert {item.path for item in checkpoint_items(folder)} == {"config.json", "model.safetensors", "loss.svg"}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    with pytest.raises(ValueError, match=r"found \.env among its files, expected weights in safetensors"):
        checkpoint_items(folder)
    index(folder, "../model-1.safetensors")
    with pytest.raises(ValueError, match="expected the name of a file beside it"):
        checkpoint_items(folder)
    index(folder, "model-1.safetensors")
    names = {"config.json", "model-1.safetensors", "model.safetensors.index.json", "loss.svg"}
    assert {item.path for item in checkpoint_items(folder)} == names


def test_a_licence_in_a_repository_is_not_taken_away():
    assert ours("model-00001-of-00002.safetensors")
    assert not any(map(ours, ("LICENSE", "USE_POLICY.md", "NOTICE", "notes.txt")))


def test_a_token_is_found_in_any_line_of_a_file(folder):
    path = folder / "preferences.jsonl"
    path.write_text("{}\n" * 3 + '{"key": "hf_' + "a1B2" * 9 + '"}\n')
    with pytest.raises(ValueError, match=r"data/a\.jsonl, line 4: found a token of the Hub"):
        check_item(Item("data/a.jsonl", path), folder)

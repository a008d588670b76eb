"""Samples survive a kill, and nothing is taken for what it is not."""

import json
import os

import pytest

from llama_align.data import Prompt, Sample
from llama_align.data.records import records_digest
from llama_align.rejection.shards import Shards
from llama_align.runtime import files as parts
from llama_align.runtime.identity import checkpoint_digest
from llama_align.runtime.processes import Group

from ..sampling.conftest import sample

SETTINGS = {"answers": 2, "seed": 0}


class Sampler:
    """Two samples per prompt; keeps a journal of the ranges asked for and dies where it is told to."""

    def __init__(self, dies_at: int | None = None):
        self.dies_at, self.asked = dies_at, []

    def __call__(self, first: int, last: int) -> list[Sample]:
        if first == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((first, last))
        return [sample(f"p{i}", f"a{i}.{j}", i + j / 10) for i in range(first, last) for j in range(2)]


# -- shards


def test_all_prompts_in_order_and_the_last_shard_is_shorter(tmp_path):
    sampler = Sampler()
    samples = Shards(tmp_path, 7, 3, SETTINGS).run(sampler)
    assert sampler.asked == [(0, 3), (3, 6), (6, 7)]
    assert [s.completion for s in samples] == [f"a{i}.{j}" for i in range(7) for j in range(2)]
    assert samples == Sampler()(0, 7), "what comes back from disk is what was sampled"


def test_a_shard_on_disk_is_not_sampled_again(tmp_path):
    first = Shards(tmp_path, 7, 3, SETTINGS).run(Sampler())
    again = Sampler()
    assert Shards(tmp_path, 7, 3, SETTINGS).run(again) == first
    assert again.asked == []


def test_parts_are_sampled_apart_and_make_the_whole(tmp_path):
    asked = []
    for part in (2, 0, 1):
        sampler = Sampler()
        Shards(tmp_path, 7, 2, SETTINGS).make(sampler, part, 3)
        asked.append(sampler.asked)
    assert asked == [[(4, 6)], [(0, 2), (6, 7)], [(2, 4)]]
    again = Sampler()
    Shards(tmp_path, 7, 2, SETTINGS).make(again, 0, 3)
    assert Shards(tmp_path, 7, 2, SETTINGS).run(again) == Sampler()(0, 7)
    assert again.asked == []


@pytest.mark.parametrize("other", [{"seed": 1}, {"answers": 3}, {"prompts": "of another file"}])
def test_other_settings_are_not_mixed_in(tmp_path, other):
    Shards(tmp_path, 4, 2, SETTINGS).run(Sampler())
    sampler = Sampler()
    Shards(tmp_path, 4, 2, SETTINGS | other).run(sampler)
    assert sampler.asked == [(0, 2), (2, 4)]
    back = Sampler()
    Shards(tmp_path, 4, 2, dict(reversed(SETTINGS.items()))).run(back)
    assert back.asked == [], "the first ones are still there, in whatever order settings are named"


def test_equal_numbers_are_the_same_setting(tmp_path):
    Shards(tmp_path, 4, 2, {"top_p": 1, "gaps": [2, 0.5]}).run(Sampler())
    again = Sampler()
    Shards(tmp_path, 4, 2, {"top_p": 1.0, "gaps": [2.0, 0.5]}).run(again)
    assert again.asked == []


@pytest.mark.parametrize("dies_at", [0, 3, 6])
def test_a_kill_loses_and_repeats_nothing(tmp_path, dies_at):
    undisturbed = Shards(tmp_path / "undisturbed", 7, 3, SETTINGS).run(Sampler())
    killed = Sampler(dies_at)
    with pytest.raises(KeyboardInterrupt):
        Shards(tmp_path / "killed", 7, 3, SETTINGS).run(killed)
    shards = Shards(tmp_path / "killed", 7, 3, SETTINGS)
    # what a process leaves that is killed while it writes a shard
    cut, other = (shards.folder / f".{dies_at:08d}-x.jsonl.{pid}.part" for pid in (17, 18))
    for part in (cut, other):
        part.write_text('{"prompt": [{"role": "us')
    os.utime(cut, (parts.STARTED - 9, parts.STARTED - 9))
    resumed = Sampler()
    assert shards.run(resumed) == undisturbed
    assert not cut.exists(), "of a run before this one"
    assert other.exists(), "perhaps of another run at work"
    assert killed.asked + resumed.asked == [(0, 3), (3, 6), (6, 7)]


def test_a_kill_inside_a_write_leaves_no_shard(tmp_path, monkeypatch):
    shards = Shards(tmp_path, 2, 2, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shards.run(Sampler())
    assert list(shards.folder.glob("*.jsonl")) == []
    assert len(shards.run(Sampler())) == 4


# -- what shards and rows are identified by


def test_a_checkpoint_is_known_by_its_content(tmp_path):
    def write(name: str, **files: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t", **files}.items():
            (folder / file).write_text(text)
        return str(folder)

    first = checkpoint_digest(write("a"))
    assert checkpoint_digest(write("a")) == first, "written again with the same bytes"
    assert checkpoint_digest(write("b")) == first, "elsewhere"
    assert checkpoint_digest(write("b", **{"README.md": "card", "log.jsonl": "{}"})) == first
    for file in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "model-00002-of-00002.safetensors",
    ):
        assert checkpoint_digest(write("c" + file, **{file: "other"})) != first


def test_a_name_on_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert checkpoint_digest("owner/model") == "owner/model", "never seen"
    for commit in ("a" * 40, "b" * 40):
        for name, file in (("model", "config.json"), ("adapter", "adapter_config.json")):
            snapshot = tmp_path / f"models--owner--{name}" / "snapshots" / commit
            snapshot.mkdir(parents=True)
            (snapshot / file).write_text("{}")
            (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
            (snapshot.parents[1] / "refs" / "main").write_text(commit)
            assert checkpoint_digest(f"owner/{name}") == f"owner/{name}@{commit}"
    assert checkpoint_digest("no name/of the/Hub") == "no name/of the/Hub"


def test_an_adapter_is_known_by_its_base_too(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    found = []
    for weights in ("w", "v", "w"):
        (base / "model.safetensors").write_text(weights)
        found.append(checkpoint_digest(str(adapter)))
    assert found[0] == found[2] != found[1]


def test_records_are_known_by_content_and_order():
    a, b = (Prompt([{"role": "user", "content": text}], "safety") for text in "ab")
    assert records_digest([a, b]) == records_digest([a, b])
    assert len({records_digest(r) for r in ([a, b], [b, a], [a], [])}) == 4


# -- what a user finds


def test_shards_are_records_a_user_can_read(tmp_path):
    shards = Shards(tmp_path, 2, 1, SETTINGS)
    shards.run(Sampler())
    rows = [json.loads(line) for path in sorted(shards.folder.glob("*.jsonl")) for line in path.open()]
    assert [Sample.from_dict(row).completion for row in rows] == ["a0.0", "a0.1", "a1.0", "a1.1"]


class Other(Group):
    """The first of two processes; the second one does its part while the first waits for it."""

    def wait(self):
        self.turns.append(self.turns[-1] + 1)
        if self.turns[-1] == 2:
            self.second(Group(1, 2))


def test_processes_share_the_missing_shards(tmp_path):
    alone = Shards(tmp_path / "alone", 7, 2, SETTINGS).run(Sampler())
    shards, first, second = Shards(tmp_path / "two", 7, 2, SETTINGS), Sampler(), Sampler()
    Shards(tmp_path / "two", 2, 2, SETTINGS).run(Sampler())
    group = Other(0, 2)
    object.__setattr__(group, "turns", [0])
    missing = [(2, 4), (4, 6), (6, 7)]

    def work(other: Group):
        for part in other.share(missing):
            (shards.folder / f"{part[0]:08d}-{part[1]:08d}.jsonl").write_text(
                "".join(json.dumps(s.to_dict()) + "\n" for s in second(*part))
            )

    object.__setattr__(group, "second", work)
    assert shards.run(first, group) == alone
    assert first.asked == [(2, 4), (6, 7)]
    assert second.asked == [(4, 6)]

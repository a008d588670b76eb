"""Pretraining of the published sizes: the papers' numbers, and two steps of each on stand-ins."""

import json
import math
import re

import pytest

from llama_align.rounds.plan import read_yaml
from llama_align.sizes import shape

from . import standins

M = 2**20  # Llama's millions of tokens in a batch
RAMP = [(4096, 4 * M), (8192, 8 * M), (8192, 16 * M)]  # Llama 3, section 3.4.1: from 252M and 2.87T tokens on
# folder -> tokens, context and batch of its stages, peak, its last share, steps of warm-up: Llama 1 table 2 and section
# 2.3, Llama 2 table 1 and section 2.2, Llama 3 table 3 and section 3.4.1, Code Llama sections 2.2 and 2.6
PAPERS = {
    "llama-1-7b": (1.0e12, [(2048, 4 * M)], 3e-4, 0.1, 2000),
    "llama-2-7b": (2.0e12, [(4096, 4 * M)], 3e-4, 0.1, 2000),
    "llama-2-70b": (2.0e12, [(4096, 4 * M)], 1.5e-4, 0.1, 2000),
    "llama-3.1-8b": (15e12, RAMP, 3e-4, 0.01, 8000),
    "llama-3.1-405b": (15.6e12, RAMP, 8e-5, 0.01, 8000),
    "llama-3.2-1b": (9e12, RAMP, 3e-4, 0.01, 8000),
    "code-llama-7b": (500e9, [(4096, 4 * M)], 3e-4, 1 / 30, 1000),
}
# name of a source -> its share: Llama 1 table 1, Llama 3 section 3.1.2, Code Llama table 1
SHARES = {
    "llama-1-7b": [67, 15, 4.5, 4.5, 4.5, 2.5, 2],
    "llama-3.1-8b": [50, 25, 17, 8],
    "llama-3.1-405b": [50, 25, 17, 8],
    "llama-3.2-1b": [50, 25, 17, 8],
    "code-llama-7b": [85, 8, 7],
}
LONG = {path.parent.name: path for path in standins.RECIPES.glob("*llama-*/pretrain_long.yaml")}


def devices_of(path) -> int:
    """What the command at the top of a file is launched on."""
    return int(re.search(r"--num_processes (\d+)", path.read_text())[1])


def stages_of(path) -> list[tuple[int, int, int]]:
    """Tokens, context and batch of every stage, whose rows the GPUs share evenly."""
    config, devices, found = read_yaml(path).content, devices_of(path), []
    for stage in config["stages"]:
        context = stage.get("context", config["context"])
        assert stage["batch"] // context % devices == 0
        found.append((stage["tokens"], context, stage["batch"]))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standins")
    standins.write_data(folder)
    standins.write_models(folder)
    return folder


def test_every_published_size_is_there():
    assert {path.parent.name for path in standins.PRETRAINED} == set(PAPERS)


@pytest.mark.parametrize("folder", PAPERS)
def test_the_numbers_are_the_papers(folder):
    path = standins.RECIPES / folder / "pretrain.yaml"
    config, (tokens, sizes, peak, last, warmup) = read_yaml(path).content, PAPERS[folder]
    stages = stages_of(path)
    assert sum(tokens for tokens, *_ in stages) == tokens
    assert [tuple(size) for _, *size in stages] == sizes
    if sizes == RAMP:
        assert (stages[0][0], stages[0][0] + stages[1][0]) == (252e6, 2.87e12)
    assert config["learning_rate"] == peak
    assert config["lr_scheduler_kwargs"]["min_lr_rate"] == pytest.approx(last, rel=1e-4)
    assert config["warmup_steps"] == warmup
    assert (config["adam_beta1"], config["adam_beta2"]) == (0.9, 0.95)
    assert (config["weight_decay"], config["max_grad_norm"]) == (0.1, 1.0)
    if folder in SHARES:
        assert [source["weight"] for source in config["datasets"]] == SHARES[folder]
    if "size" in config:
        assert config["size"] == folder
        assert shape(folder).pretrained_context == config["context"]
    else:
        assert (config["infilling"], config["infilling_suffix_first"]) == (0.9, 0.5)


def test_code_llamas_long_stage():
    path = LONG["code-llama-7b"]
    config = read_yaml(path).content
    assert config["size_overrides"] == {"max_position_embeddings": 16384, "rope_theta": 1e6}
    assert stages_of(path) == [(3000 * 2 * M, 16384, 2 * M)]
    assert config["learning_rate"] == 2e-5
    assert shape("code-llama-7b").rope_parameters["rope_theta"] == 1e6
    assert shape("code-llama-7b").max_position_embeddings == 16384


def test_llama_3s_long_stages():
    """Llama 3, sections 3.4.2 and 3.4.3: 800B tokens from 8K to 128K through gates, then 40M to a rate of zero."""
    path = LONG["llama-3.1-8b"]
    *long, last = read_yaml(path).content["stages"]
    tokens, contexts, _ = zip(*stages_of(path), strict=True)
    assert (sum(tokens[:-1]), tokens[-1]) == (800e9, 40e6)
    assert contexts == (16384, 32768, 65536, 131072, 131072)
    assert all(stage["gate"]["short"] == 8192 for stage in long)
    assert last["schedule"] == {"type": "linear"}
    published = shape("llama-3.1-8b").rope_parameters
    assert long[0]["rope_scaling"] == {name: value for name, value in published.items() if name != "rope_theta"}


@pytest.mark.parametrize("path", standins.PRETRAINED, ids=lambda path: path.parent.name)
def test_two_steps_of_every_stage_on_a_stand_in(path, root, tmp_path):
    options = standins.staged(standins.anew(standins.overrides(read_yaml(path).content, root, trains=True)))
    standins.run_step("pretrain", options, tmp_path / "pretrain")
    config = json.loads((tmp_path / "pretrain" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "default"
    runs = {tmp_path / "pretrain": stages_of(path)}
    if long := LONG.get(path.parent.name):
        wanted = read_yaml(long).content
        options = standins.staged(standins.overrides(wanted, root, trains=True))
        standins.run_step("pretrain", options | {"model_name_or_path": str(tmp_path / "pretrain")}, tmp_path / "long")
        runs[tmp_path / "long"] = stages_of(long)
        config = json.loads((tmp_path / "long" / "config.json").read_text())
        rope = {"rope_theta": shape(path.parent.name).rope_parameters["rope_theta"]}
        assert config["rope_parameters"].items() >= (rope | wanted["stages"][0].get("rope_scaling", {})).items()
        assert config["max_position_embeddings"] == wanted["size_overrides"]["max_position_embeddings"]
    for folder, stages in runs.items():
        assert len(standins.losses(folder)) == 2 * len(stages)
        assert all(map(math.isfinite, standins.losses(folder)))

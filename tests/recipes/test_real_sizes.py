"""The YAMLs for published models: values have their sources, steps run on stand-ins, the page says what is computed."""

import importlib.util
import itertools
import json
import math
import os
import re
import sys
from pathlib import Path

import pytest

from llama_align.models import preset
from llama_align.rounds.plan import read_yaml

from ..docs.metric_names import assert_explained
from ..launch.warm import LAUNCHER
from . import standins

PROJECT = Path(__file__).parents[2]
FOLDERS = sorted({*standins.FOLDERS, *(path.parent.name for path in standins.PRETRAINED)})
STAGES = [path for folder in FOLDERS for path in sorted((standins.RECIPES / folder).glob("*.yaml"))]
STAGES = [path for path in STAGES if not path.stem.startswith("rounds")]
# names of folders and lists of them, which need no source
PATHS = ("output_dir", "datasets", "search_datasets", "eval_datasets", "models", "reward_models", "model", "baseline")
OF_DATA = ("limit", "part", "max_chars", "default_grade", "grades")  # of a source
IDS = {"ids": lambda path: f"{path.parent.name}/{path.stem}"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standins")
    standins.write_data(folder)
    standins.write_models(folder)
    return folder


@pytest.mark.parametrize("path", STAGES, **IDS)
def test_every_value_has_its_source(path):
    lines = path.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        option, _, value = line.strip().removeprefix("- ").partition(": ")
        outer = not line.startswith(" ") and not line.startswith("#")
        if (outer and option.rstrip(":") not in PATHS and not value.startswith("runs/")) or option in OF_DATA:
            assert "  # " in line or above.strip().startswith("# "), line
    top = {line.split(":")[0] for line in lines if re.match(r"\w+:", line)}
    assert set(read_yaml(path).content) == top  # a key a line


@pytest.mark.parametrize("folder", standins.FOLDERS)
def test_a_folder_has_every_stage(folder):
    names = {path.stem for path in (standins.RECIPES / folder).glob("*.yaml")}
    assert names >= {"sft", "rejection_sampling", "sft_best", "dpo", "average", "evaluate", "rounds"}
    two = {"reward_helpfulness", "reward_safety", "ppo"}  # Llama 2 has these, Llama 3 one reward model and no PPO
    assert names & {"reward", *two} == (two if folder == "llama-2-7b" else {"reward"})


@pytest.mark.parametrize("name", standins.MODELS)
def test_a_stand_in_has_the_published_shape(name, root):
    size, width, heads, *_ = standins.MODELS[name]
    config, published = json.loads((root / name / "config.json").read_text()), preset(size)
    assert config["model_type"] == "llama"
    for field in ("tie_word_embeddings", "max_position_embeddings", "rms_norm_eps", "rope_parameters"):
        assert config[field] == getattr(published, field), field
    for field, by in (("hidden_size", width), ("num_attention_heads", heads), ("num_key_value_heads", heads)):
        assert config[field] * by == getattr(published, field), field


@pytest.mark.parametrize("path", standins.PLANS, **IDS)
def test_every_step_of_a_plan_runs(path, root, tmp_path):
    folders = standins.run_plan(path, root, tmp_path)
    for name, folder in folders.items():
        if trained := standins.losses(folder):
            assert len(trained) == 2, name
            assert all(map(math.isfinite, trained)), name
        assert_explained(folder)
    assert {"sft", "dpo"} <= {name for name, folder in folders.items() if standins.losses(folder)}
    rows = json.loads((folders["evaluate"] / "metrics.json").read_text())["rows"]
    assert [row["row"] for row in rows][-2:] == ["dpo", "average"]
    assert all(0 <= row["win_rate"]["rate"] <= 1 for row in rows[1:])


def test_the_two_stages_that_share_most_run_under_zero3(root, warm):
    """Llama 2's chain up to PPO's policy, critic, reference and two reward models; `standins` runs all of it."""
    command = [*LAUNCHER, "--main_process_port", "0"]
    command += ["--config_file", str(PROJECT / "accelerate_configs" / "cpu_zero3.yaml"), "-m", standins.__name__]
    command += ["--plans", "llama-2-7b/rounds", "--until", "ppo", "--shared", str(root)]
    done = warm.run(command, os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
    steps = re.findall(r"llama-2-7b/rounds +(\w+) .* losses \[(.+)\]", done.stdout)
    assert {"sft", "reward_helpfulness", "reward_safety", "sft_best", "ppo"} <= {name for name, _ in steps}
    assert all(math.isfinite(float(loss)) for _, found in steps for loss in found.split(","))


def test_the_page_is_what_the_command_prints():
    spec = importlib.util.spec_from_file_location("real_sizes", PROJECT / "benchmarks" / "real_sizes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_sizes"] = module
    spec.loader.exec_module(module)
    assert module.tables() in (PROJECT / "docs" / "real_sizes.md").read_text()


@pytest.mark.parametrize("page", [*(standins.RECIPES / folder / "README.md" for folder in standins.FOLDERS)], ids=str)
def test_a_readmes_commands_name_files_that_are_there(page):
    named = re.findall(r"(?:recipes|accelerate_configs)/[\w./-]+\.(?:yaml|py)", page.read_text())
    assert len(named) > 3
    assert all((PROJECT / path).is_file() for path in named), page

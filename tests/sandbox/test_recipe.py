"""The recipe: its YAML parses, every option in it is the documented default, and a run leaves its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llama_align.sandbox import DemonstrationNoise, SandboxConfig

from ..docs.metric_names import assert_explained

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes" / "herd-nano" / "sandbox.yaml"


def test_the_yaml_states_every_default():
    stated = yaml.safe_load(CONFIG.read_text())
    stated.pop("output_dir")
    assert stated == vars(SandboxConfig()) | vars(DemonstrationNoise())


@pytest.mark.parametrize(("extra", "code"), [([], 0), (["--heldout_secret", "4000"], 2)])
def test_a_run(tmp_path, extra, code):
    sizes = ["--documents", "50", "--demonstrations", "50", "--preferences", "50", "--prompts", "50"]
    command = [sys.executable, "recipes/sandbox.py", "--config", str(CONFIG), "--output_dir", str(tmp_path / "sandbox")]
    done = subprocess.run([*command, *sizes, *extra], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    if code:
        assert "holds only" in done.stderr.splitlines()[-1]
        return
    assert_explained(tmp_path / "sandbox")
    counts = json.loads((tmp_path / "sandbox" / "metrics.json").read_text())
    for name, count in counts.items():
        assert len((tmp_path / "sandbox" / f"{name}.jsonl").read_text().splitlines()) == count

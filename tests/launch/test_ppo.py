"""PPO in one process, data parallel, ZeRO-2, ZeRO-3 and FSDP2: one policy and critic, from the same answers.

Measured here: losses within 2e-7 absolute, gradient norms within 4e-6 relative, weights of policy and critic within
8e-6 absolute after 6 steps (AVX-512; with AVX2 alone up to 5.8e-5 apart).
"""

import pytest
import torch
from safetensors.torch import load_file

from llama_align import LlamaHerdForCausalLM, LlamaHerdForTokenClassification

from .comparing import differences, moved
from .conftest import CONFIGS as FOLDER
from .conftest import PROJECT, environment, read
from .warm import LAUNCHER

STEPS, SAVED = 6, 3
CONFIGS = ("cpu_ddp", "cpu_zero2", "cpu_zero3", "fsdp2")
STEERED = {"kl_target": 0.01, "kl_horizon": 100}
LOGGED = ("reward", "kl", "kl_coefficient", "loss/policy", "loss/value", "entropy", "value/mean", "grad_norm")


def with_critic(run):
    critic = load_file(run.path / "value_model" / "model.safetensors")
    run.weights |= {f"value_model.{name}": weight for name, weight in critic.items()}
    return run


@pytest.mark.parametrize("config", CONFIGS)
def test_two_processes_train_what_one_trains(launch, workshop, config):
    one, two = with_critic(launch("ppo", "cpu_single", **STEERED)), with_critic(launch("ppo", config, **STEERED))
    assert len(one.rows) == STEPS
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row.keys() == other.keys()
        assert row.get("answers/length") == other.get("answers/length")  # of the same answers, where there are new ones
        for name in row.keys() & {"loss", *LOGGED}:
            assert row[name] == pytest.approx(other[name], rel=1e-5, abs=5e-6), name
    # where a gradient is next to nothing, its rounding decides Adam's step
    apart = torch.cat([(one.weights[name] - two.weights[name]).abs().flatten() for name in one.weights])
    assert (apart > 5e-5).sum() <= 2
    assert apart.max() < 2e-4
    start = load_file(workshop / "base" / "model.safetensors")
    critic = load_file(workshop / "helpfulness" / "model.safetensors")
    assert moved(one, start) > 1e-3
    assert moved(one, {f"value_model.{name}": weight for name, weight in critic.items()}) > 5e-3
    assert one.rows[-2]["kl_coefficient"] != 0.1  # of the last rollout


@pytest.mark.parametrize("config", CONFIGS)
def test_a_resumed_run_ends_as_the_undisturbed_one(launch, config):
    whole = launch("ppo", config, **STEERED)
    resumed = with_critic(launch("ppo", config, continues=whole, **STEERED))
    assert (resumed.path / f"checkpoint-{STEPS}").is_dir()
    assert differences(with_critic(whole), resumed, ("loss", "grad_norm")) == {
        "loss": 0.0,
        "grad_norm": 0.0,
        "weights": 0.0,
    }
    for name in LOGGED:
        assert [row.get(name) for row in whole.rows] == [row.get(name) for row in resumed.rows], name


@pytest.mark.parametrize("config", ["cpu_single", *CONFIGS])
def test_a_run_leaves_two_plain_checkpoints(launch, config):
    path = launch("ppo", config, **STEERED).path
    for folder, kind in ((path, LlamaHerdForCausalLM), (path / "value_model", LlamaHerdForTokenClassification)):
        for place in (folder, path / f"checkpoint-{SAVED}" / folder.relative_to(path)):
            _, info = kind.from_pretrained(place, output_loading_info=True)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]


SMALL_CHUNKS = """
import runpy, sys
import llama_align.models.head as head
head.MODULE_CHUNK = 8
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_processes_with_answers_of_other_lengths_do_not_wait_for_each_other(launch, workshop, warm, tmp_path):
    """Under ZeRO-3 the head is called chunk by chunk, all processes together: here each has a number of its own."""
    whole = launch("ppo", "cpu_zero3", **STEERED)
    (tmp_path / "run.py").write_text(SMALL_CHUNKS)
    command = [*LAUNCHER, "--config_file", FOLDER / "cpu_zero3.yaml"]
    command += ["--main_process_port", "0", tmp_path / "run.py", PROJECT / "recipes" / "ppo.py"]
    command += ["--config", workshop / f"{whole.path.name}.yaml", "--output_dir", tmp_path / "run"]
    done = warm.run(command, environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["loss"] for row in read(tmp_path / "run", "").rows] == pytest.approx(
        [row["loss"] for row in whole.rows], abs=5e-6
    )

"""The files in accelerate_configs/, read as `accelerate launch` reads them. The GPU ones run nowhere in these tests."""

import argparse
import itertools
import os
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

FILES = sorted((Path(__file__).parents[2] / "accelerate_configs").glob("*.yaml"))
NAMES = {file.stem for file in FILES}


@pytest.fixture
def environment(monkeypatch):
    """What `accelerate launch --config_file` gives the processes it starts."""

    def make(name: str) -> argparse.Namespace:
        file = next(file for file in FILES if file.stem == name)
        args = launch_command_parser().parse_args(
            ["--config_file", str(file), "--main_process_port", "0", "recipes/pretrain.py"]
        )
        args, defaults, _ = _validate_launch_command(args)
        # set by launch_command itself
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        given = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
        for key, value in given.items():
            if os.environ.get(key) != value:
                monkeypatch.setenv(key, value)
        return args

    return make


def test_there_is_a_file_for_every_mode():
    gpu = {"single", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2"}
    assert {"cpu_single", "cpu_ddp", "cpu_zero2", "cpu_zero3"} | gpu == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_loads_the_file_and_knows_every_field(file):
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    options = {action.dest for action in launch_command_parser()._actions}
    for section in (config.deepspeed_config, config.fsdp_config):
        assert set(section) <= options


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_field_is_explained(file):
    lines = file.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if not line.lstrip().startswith("#") and not line.endswith("_config:"):
            assert above.lstrip().startswith("#"), line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_gpus_compute_in_bfloat16_and_processors_in_float32(file):
    config = yaml.safe_load(file.read_text())
    on_cpu = file.stem.startswith("cpu_")
    assert config["mixed_precision"] == ("no" if on_cpu else "bf16")
    # accelerate leaves DeepSpeed out where the CPU is asked for
    assert config["use_cpu"] == (on_cpu and config["distributed_type"] != "DEEPSPEED")


@pytest.mark.parametrize(
    ("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_offload", 3), ("cpu_zero2", 2), ("cpu_zero3", 3)]
)
def test_deepspeed_gets_what_the_file_says(environment, name, stage):
    assert environment(name).use_deepspeed
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    # both are the recipe's to set
    assert plugin.gradient_accumulation_steps == plugin.gradient_clipping == "auto"
    if stage == 3:
        # the weights a recipe saves at its end are whole
        assert plugin.zero3_save_16bit_model
        assert plugin.zero3_init_flag
    assert plugin.offload_optimizer_device == ("cpu" if name.endswith("offload") else "none")


def test_fsdp_gets_what_the_file_says(environment):
    assert environment("fsdp2").use_fsdp
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert not plugin.activation_checkpointing


@pytest.mark.parametrize("name", ["ddp", "cpu_ddp"])
def test_data_parallel_starts_its_own_processes(environment, name):
    args = environment(name)
    assert args.multi_gpu
    assert args.num_processes >= 2

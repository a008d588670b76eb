"""Which precision a recipe trains in: what is asked for, what the launch file says, what the machine has."""

import pytest
import torch
from transformers import TrainingArguments, training_args

from llama_align import recipe
from llama_align.trainers import HerdDPOConfig, PretrainConfig

GPU, CPU = True, False


@pytest.mark.parametrize("config_class", [PretrainConfig, HerdDPOConfig])
@pytest.mark.parametrize(
    ("on_gpu", "environment", "options", "expected"),
    [
        (GPU, {}, [], "bf16"),
        (GPU, {}, ["--fp16", "true"], "fp16"),
        (GPU, {}, ["--bf16", "false"], "no"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "no"}, [], "bf16"),  # accelerate launch without a file
        (GPU, {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "true"}, [], "no"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "bf16"}, [], "bf16"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "fp16"}, [], "fp16"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_DEEPSPEED": "true"}, [], "bf16"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_DEEPSPEED": "true"}, [], "fp16"),
        (GPU, {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_DEEPSPEED": "true"}, [], "no"),
        (CPU, {}, [], "no"),
        (CPU, {"ACCELERATE_MIXED_PRECISION": "bf16"}, [], "bf16"),
    ],
)
def test_precision_is_the_launch_files_and_bf16_on_a_gpu(
    monkeypatch, tmp_path, config_class, on_gpu, environment, options, expected
):
    """DeepSpeed refuses to start where its file and the recipe do not say the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(training_args, "is_torch_bf16_gpu_available", lambda: on_gpu)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cpu"))  # found with a look at the GPU
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (found,) = recipe.parse((config_class,), ["--output_dir", str(tmp_path), *options])
    assert found.mixed_precision == expected
    if "ACCELERATE_USE_DEEPSPEED" in environment:
        assert {name for name in ("bf16", "fp16") if getattr(found, name)} == {expected} - {"no"}

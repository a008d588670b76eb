"""Peak FLOP/s: drivers' names of known accelerators, what overrides them, and a measurement that changes nothing."""

import time

import pytest
import torch

from llama_align.runtime.peak import SETTING, measured_peak, peak_flops
from llama_align.sizes.devices import known_peak

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_accelerators_are_known_by_the_names_their_drivers_give(name, teraflops):
    assert known_peak(name) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    ],
)
def test_names_that_hold_a_known_one_are_other_chips(name):
    assert known_peak(name) is None


def test_an_accelerator_is_looked_up_and_an_unknown_one_has_no_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: {0: "NVIDIA L4", 1: "Other"}[device.index])
    assert peak_flops(GPU) == 121e12
    assert peak_flops(torch.device("cuda", 1)) is None
    assert peak_flops(torch.device("mps")) is None


def test_an_argument_comes_before_the_environment_and_both_before_the_device(monkeypatch):
    monkeypatch.setenv(SETTING, "5e12")
    assert peak_flops(GPU) == peak_flops(CPU) == 5e12
    assert peak_flops(GPU, given=7e12) == 7e12


@pytest.mark.parametrize("value", ["fast", "0", "-1e12", "nan", "inf"])
def test_a_peak_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv(SETTING, value)
    with pytest.raises(ValueError, match=f"{SETTING}: found '{value}', expected the FLOP/s of one device, such as 98"):
        peak_flops(CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_processor_is_measured_once_and_no_random_number_is_drawn(dtype):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = peak_flops(CPU, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e8 < found < 1e15
    start = time.perf_counter()
    assert measured_peak(dtype) == found
    assert time.perf_counter() - start < 0.01

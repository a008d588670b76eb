"""Imports put off: the package is light, and registers LlamaHerd with whoever imports the Auto classes."""

import importlib.util
import subprocess
import sys

import pytest

import llama_align
from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM, recipe
from llama_align.runtime.on_demand import when_imported

LIGHT = """
import sys
import llama_align, llama_align.cli
from llama_align import recipe, rounds
from llama_align.recipe import bounds, outline, reading
from llama_align.rounds import steps
heavy = {"torch", "transformers", "accelerate", "datasets", "deepspeed"} & set(sys.modules)
assert not heavy, heavy
"""
LOADS = """
import sys
import llama_align
from transformers import AutoConfig, AutoModelForCausalLM
assert type(AutoConfig.from_pretrained(sys.argv[1])).__module__ == "llama_align.models.configuration_llama_herd"
assert AutoConfig.for_model("llama_herd", hidden_size=64).hidden_size == 64
assert type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__ == "LlamaHerdForCausalLM"
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("llama_align")]
"""
AFTERWARDS = """
import sys
from transformers import AutoModelForCausalLM
import llama_align
assert type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__ == "LlamaHerdForCausalLM"
"""


@pytest.fixture(scope="module")
def herd(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("herd")
    LlamaHerdForCausalLM(
        LlamaHerdConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("script", [LIGHT, LOADS, AFTERWARDS], ids=["light", "loads", "afterwards"])
def test_in_a_fresh_process(script, herd):
    ran = subprocess.run([sys.executable, "-c", script, herd], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_what_is_asked_for_is_there_and_nothing_else():
    assert all(hasattr(recipe, name) for name in recipe.__all__)
    assert llama_align.averaging.average_checkpoints
    assert recipe.quantised.__name__ == "llama_align.recipe.quantised"
    with pytest.raises(AttributeError, match=r"module 'llama_align.recipe' has no attribute 'pars'"):
        _ = recipe.pars


def test_a_module_that_is_there_is_not_waited_for():
    called = []
    when_imported("sys", lambda: called.append(1))
    assert called == [1]


def test_a_module_that_comes_later(monkeypatch, tmp_path):
    (tmp_path / "comes_later.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "comes_later", raising=False)
    called, finders = [], list(sys.meta_path)
    when_imported("comes_later", lambda: called.append(sys.modules["comes_later"].value))
    assert importlib.util.find_spec("comes_later")  # by whoever only asks whether it is there
    assert not called
    import comes_later  # noqa: F401

    assert called == [1]
    assert sys.meta_path == finders

"""A published Llama, karpathy's stories260K: there and back byte for byte, its own story all along."""

import os
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_align.chat.adding import add_tokens
from llama_align.models.convert import convert
from llama_align.recipe.yaml_files import read_yaml
from llama_align.rounds.plan import Plan

ROOT = Path(__file__).parents[2]
MODEL = Path(os.environ.get("LLAMA_ALIGN_SHARED") or ROOT.parent / "shared") / "data/models/stories260K"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high."
)

needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="needs stories260K in the shared data")


def told(folder: Path) -> str:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    written = model.generate(ids, max_new_tokens=60, do_sample=False)
    return tokenizer.decode(written[0], skip_special_tokens=True)


@needs_model
def test_it_tells_its_story_in_every_form(tmp_path):
    convert(MODEL, tmp_path / "herd")
    convert(tmp_path / "herd", tmp_path / "back")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (MODEL / name).read_bytes()
    add_tokens(tmp_path / "herd", tmp_path / "added", pad_to_multiple_of=64)
    convert(tmp_path / "added", tmp_path / "published", to="herd", with_code=True, dtype="float32")
    for folder in (MODEL, tmp_path / "herd", tmp_path / "back", tmp_path / "added", tmp_path / "published"):
        assert told(folder).startswith(STORY), folder


def test_its_plan_can_be_run():
    """Recipes, references and options of the chain, which no test runs (docs/published_llamas.md)."""
    file = ROOT / "recipes/stories260k/rounds.yaml"
    plan = Plan.load(file, ROOT / "recipes")
    assert [step.name for step in plan.steps] == [step["name"] for step in read_yaml(file).content["steps"]]
    assert plan.inputs("ppo") == ["reward", "sft_best"]

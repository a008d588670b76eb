"""What is asked of a model reaches every place where a run reads one: weights, tokenizer, reference, judge, critic.

Generated: every recipe, every `from_pretrained` of transformers' Auto classes that it ends in.
"""

import shutil

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from llama_align import recipe
from llama_align.runtime.identity import checkpoint_digest, checkpoint_dtype
from tests.recipes.test_recipes import SCRIPTS, types_of

MODELS = (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification)
TRAINING = ("pretrain", "sft", "reward", "dpo", "ppo")
HAVE_CODE = ("sft", "reward", "dpo", "ppo")
SAMPLING = ("rejection_sampling", "refine", "synthesise")
# the recipes that take it, which the tests here go through; `dtype` of those that sample: tests/recipe/test_start.py,
# of benchmarks: tests/benchmarks
REACHES = {
    "model_revision": TRAINING,
    "trust_remote_code": HAVE_CODE,
    "attn_implementation": TRAINING,
    "dtype": (*TRAINING, "annotate", "benchmark", "benchmark_rewards", "choose", "evaluate", *SAMPLING),
}
# which models a run reads, beside its policy or, in `reward`, what it starts from
READ = {
    "pretrain": [],
    "sft": [],
    "reward": [],
    "dpo": ["reference"],
    "ppo": ["reference", "judge", "critic"],
}


@pytest.fixture
def spied(monkeypatch):
    """Every call of `from_pretrained`: class, name, options, and what it gave."""
    calls = []

    def spy(kind):
        theirs = kind.from_pretrained

        def from_pretrained(name, *args, **kwargs):
            if kind is PeftModel:  # whose first argument is the model it goes onto
                name, args, onto = args[0], args[1:], (name,)
                given = theirs(*onto, name, *args, **kwargs)
            else:
                given = theirs(name, *args, **kwargs)
            calls.append((kind, str(name), kwargs, given))
            return given

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    for kind in (AutoConfig, AutoTokenizer, *MODELS, PeftConfig, PeftModel):
        spy(kind)
    return calls


@pytest.fixture
def hub(family, tmp_path, monkeypatch):
    """Puts a checkpoint into the Hub's cache under a branch `better`, and no branch `main`; returns its name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(source: str, name: str, commit: str) -> str:
        folder = tmp_path / "hub" / f"models--owner--{name}"
        shutil.copytree(family[source], folder / "snapshots" / (commit * 40))
        (folder / "refs").mkdir()
        (folder / "refs" / "better").write_text(commit * 40)
        return f"owner/{name}"

    return put


def models_in(calls) -> list:
    return [given[0] if isinstance(given, tuple) else given for kind, _, _, given in calls if kind in MODELS]


@pytest.mark.parametrize("lora", [{}, {"use_peft": True, "lora_r": 2}], ids=["whole", "LoRA"])
@pytest.mark.parametrize("script", TRAINING)
def test_a_revision_reaches_whatever_is_read_of_the_start(script, lora, hub, stage, run_recipe, spied):
    name = hub("whole", "model", "b")
    run = run_recipe(
        script, **stage[script] | lora | {"max_steps": 1}, model_name_or_path=name, model_revision="better"
    )
    read = [(kind, options) for kind, found, options, _ in spied if found == name]
    assert {kind for kind, _ in read} >= ({AutoTokenizer} if script != "pretrain" else set())
    assert any(kind in MODELS for kind, _ in read)
    if lora:
        spied.clear()
        recipe.load_model(str(run), "reward" if script == "reward" else "causal")  # by what the adapter says
        read += [(kind, options) for kind, found, options, _ in spied if found == name]
        assert read[-1][0] in MODELS
    for kind, options in read:
        assert options.get("revision") == "better", kind.__name__


@pytest.mark.parametrize("policy", ["merge", "continue"])
def test_a_revision_reaches_the_base_of_an_adapter(policy, hub, family, stage, run_recipe, spied, tmp_path):
    base = hub("base", "model", "a")
    adapter = tmp_path / "adapter"
    shutil.copytree(family["adapter"], adapter, ignore=shutil.ignore_patterns("tokenizer*"))
    config = PeftConfig.from_pretrained(family["adapter"])
    config.base_model_name_or_path, config.revision = base, "better"
    config.save_pretrained(adapter)
    spied.clear()
    run_recipe("sft", **stage["sft"] | {"max_steps": 1}, model_name_or_path=str(adapter), adapter=policy)
    read = [(kind, options) for kind, found, options, _ in spied if found == base]
    assert {kind for kind, _ in read} >= {AutoTokenizer, AutoConfig, AutoModelForCausalLM}
    for kind, options in read:
        assert options.get("revision") == "better", kind.__name__


def test_the_type_and_the_digest_of_an_adapter_are_those_of_its_bases_revision(tmp_path, hub, half_family, family):
    """A base whose branches differ in type: `better` is in bfloat16, `main` in float32."""
    base = hub("base", "model", "a")
    folder = tmp_path / "hub" / "models--owner--model"
    shutil.copytree(half_family["base"], folder / "snapshots" / ("c" * 40))
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "refs" / "better").write_text("c" * 40)
    adapter = tmp_path / "adapter"
    shutil.copytree(family["adapter"], adapter)
    found = []
    for revision in ("main", "better"):
        config = PeftConfig.from_pretrained(family["adapter"])
        config.base_model_name_or_path, config.revision = base, revision
        config.save_pretrained(adapter)
        assert recipe.load_model(str(adapter)).dtype == getattr(torch, checkpoint_dtype(str(adapter)))
        found.append((checkpoint_dtype(str(adapter)), checkpoint_digest(str(adapter))))
    assert [dtype for dtype, _ in found] == ["float32", "bfloat16"]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("script", HAVE_CODE)
def test_code_of_a_repository_is_trusted_everywhere_or_nowhere(script, family, stage, run_recipe, spied):
    for trusted in (True, False):
        spied.clear()
        options = stage[script] | {"max_steps": 1, "trust_remote_code": trusted}
        run_recipe(script, **options, model_name_or_path=family["base"])
        read = [(kind, options) for kind, _, options, _ in spied if kind not in (PeftConfig, PeftModel)]
        assert {bool(options.get("trust_remote_code")) for _, options in read} == {trusted}


@pytest.mark.parametrize("script", TRAINING)
def test_attention_is_the_one_asked_for_in_every_model(script, family, stage, run_recipe, spied):
    options = stage[script] | {"max_steps": 1, "attn_implementation": "eager"}
    run_recipe(script, **options, model_name_or_path=family["base"])
    models = models_in(spied)
    assert len(models) == 1 + len(READ[script])
    assert {model.config._attn_implementation for model in models} == {"eager"}


@pytest.mark.parametrize("start", ["whole", "adapter"])
@pytest.mark.parametrize("script", TRAINING)
def test_a_type_is_that_of_all_that_trains_and_of_its_reference(script, start, half_family, stage, run_recipe, spied):
    options = stage[script] | {"max_steps": 1, "dtype": "bfloat16"}
    if script == "ppo":
        options["reward_models"] = {"helpfulness": half_family["reward_whole"]}
    run_recipe(script, **options, model_name_or_path=half_family[start])
    # a merge is made in float32, and then cast
    assert {model.dtype for model in models_in(spied)} == {torch.bfloat16}


@pytest.mark.parametrize("name", REACHES)
@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS])
def test_where_nothing_would_come_of_it_it_is_refused(script, name, monkeypatch, tmp_path):
    types = types_of(script, monkeypatch)
    assert (name in {name for kind in types for name in kind.__dataclass_fields__}) == (script in REACHES[name])
    if script in REACHES[name]:
        return
    config = tmp_path / "options.yaml"
    config.write_text(f"{name}: {'true' if name == 'trust_remote_code' else 'bfloat16'}\n")
    with pytest.raises(recipe.RecipeError, match=f"field '{name}': unknown option"):
        recipe.parse(types, ["--config", str(config)])

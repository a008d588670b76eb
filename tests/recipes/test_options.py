"""Every option of every recipe is read by somebody or refused: none is accepted and ignored."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import transformers
import trl
from transformers import TrainingArguments
from trl import DPOConfig, ModelConfig, RewardConfig, RLOOConfig, SFTConfig

import llama_align
from llama_align import recipe
from llama_align.recipe.engines import CachedEngineOptions
from llama_align.recipe.unused import UNUSED, default_of, refuse_unused

from .test_recipes import RECIPES, SCRIPTS, module_of, types_of

PACKAGE = Path(llama_align.__file__).parent
TRAINING = ("pretrain", "sft", "reward", "dpo", "ppo")
# where a recipe's own options are read, beside its script
READERS = {
    # people/annotators.py reads settings that the batch was made with
    "annotate": ["annotate/options.py", "people/options.py", "people/annotators.py"],
    "pretrain": ["recipe/staging.py"],
    "refine": ["refine/run.py"],
    "rejection_sampling": ["rejection/run.py"],
    "reward": ["recipe/batches.py"],
    "synthesise": ["refine/run.py", "refine/synthesis.py"],
    "sandbox": ["sandbox/write.py", "sandbox/world.py", "sandbox/annotators.py", "sandbox/demonstrations.py"],
    "choose": ["evaluation/measure.py"],
    "evaluate": ["evaluation/measure.py"],
}
# of TRL's own options those that its trainers read for rows like ours; what is in none of these lists must be refused
TRLS = {
    SFTConfig: {
        "the recipe": {"max_length", "trust_remote_code"},
        "SFTTrainer.compute_loss, see test_the_losses_of_trl_for_sft": {"loss_type"},
        "SFTTrainer.training_step": {"activation_offloading"},
    },
    RewardConfig: {
        "the recipe": {"trust_remote_code"},
        "HerdRewardConfig.terms": {"center_rewards_coefficient"},
        "RewardTrainer.__init__, before our loss": {"disable_dropout"},
        "RewardTrainer.training_step": {"activation_offloading"},
    },
    DPOConfig: {
        "the recipe": {"max_length", "trust_remote_code"},
        "MaskedPreferenceCollator": {"truncation_mode"},
        "DPOTrainer._compute_loss, which ours adds to": {
            *("loss_type", "loss_weights", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "beta"),
            *("label_smoothing", "use_weighting", "discopop_tau"),
        },
        "DPOTrainer.__init__": {"disable_dropout", "precompute_ref_log_probs", "precompute_ref_batch_size"},
        "SyncRefModelCallback": {"sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"},
        "DPOTrainer.training_step": {"activation_offloading"},
    },
    RLOOConfig: {
        "the recipe": {"trust_remote_code", "max_completion_length"},
        "PPOTrainer": {
            *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "beta", "epsilon", "num_generations"),
            "mask_truncated_completions",
        },
        "RLOOTrainer's sampler and buffer": {
            *("shuffle_dataset", "generation_batch_size", "steps_per_generation", "num_iterations", "use_vllm"),
        },
    },
}
# read before anything is trained, or under another name
BY_TRAINING_ARGUMENTS = {
    *("tf32", "use_cpu", "ddp_backend", "ddp_timeout", "log_level", "log_level_replica", "log_on_each_node"),
    *("per_device_eval_batch_size", "gradient_checkpointing_kwargs"),
}


def options(kind: type) -> set[str]:
    return {field.name for field in fields(kind) if field.init}


def names_in(*files: Path) -> set[str]:
    """Attributes that are read in these files, and strings, such as those given to `getattr`."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    return read | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def refused(kind: type) -> set[str]:
    return {name for names in UNUSED.get(kind, {}).values() for name in names}


def changed(value):
    """Another value than the default's."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 8
    return {"bado": 1} if isinstance(value, dict) else "bado"


def is_refused(kind: type, name: str, folder: Path) -> bool:
    """Whether an option that is not at its default ends in an error that names it and says why."""
    value = changed(default_of(kind, name))
    try:
        stage = kind(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **{name: value})
        refuse_unused([stage], {name})
    except ValueError as error:
        return str(error).startswith(f"{name}: ") and ("no effect" in str(error) or "without use_vllm" in str(error))
    except TypeError:  # a value of another kind, which somebody read
        pass
    return False


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS])
def test_a_recipes_own_options_are_read(script, monkeypatch):
    files = [RECIPES / f"{script}.py", *(PACKAGE / place for place in READERS.get(script, []))]
    for kind in types_of(script, monkeypatch):
        if issubclass(kind, TrainingArguments | ModelConfig):
            continue
        read = names_in(*files)
        # which tests/recipe/test_engines.py has the readers of
        engine = options(CachedEngineOptions) if "engine_settings" in read else set()
        unread = options(kind) - read - engine
        assert not unread, f"{kind.__name__}: nobody reads {sorted(unread)}"


@pytest.mark.parametrize("script", TRAINING)
def test_our_trainers_options_are_read(script, monkeypatch):
    (kind,) = [kind for kind in types_of(script, monkeypatch) if issubclass(kind, TrainingArguments)]
    theirs = options(next(base for base in kind.__mro__[1:] if not base.__module__.startswith("llama_align")))
    read = names_in(*sorted((PACKAGE / "trainers").rglob("*.py")), RECIPES / f"{script}.py")
    unread = options(kind) - theirs - read
    assert not unread, f"{kind.__name__}: nobody reads {sorted(unread)}"


@pytest.mark.parametrize("script", TRAINING)
def test_an_option_of_transformers_is_read_or_refused(script, monkeypatch):
    (kind,) = [kind for kind in types_of(script, monkeypatch) if issubclass(kind, TrainingArguments)]
    root = Path(transformers.__file__).parent
    files = [*root.glob("trainer*.py"), *root.glob("integrations/*.py"), root / "modeling_utils.py"]
    read = names_in(*files, RECIPES / f"{script}.py") | BY_TRAINING_ARGUMENTS
    ignored = options(TrainingArguments) - read - refused(kind)
    assert not ignored, f"{sorted(ignored)}: new in TrainingArguments; honour it or name it in recipe/unused.py"


@pytest.mark.parametrize("script", [script for script in TRAINING if script != "pretrain"])
def test_an_option_of_trl_is_honoured_or_refused(script, monkeypatch, tmp_path):
    """Each is in exactly one list, and what is in none is refused as soon as it is set."""
    (kind,) = [kind for kind in types_of(script, monkeypatch) if issubclass(kind, TrainingArguments)]
    base = next(base for base in kind.__mro__ if base in TRLS)
    own = options(base) - options(TrainingArguments)
    named = [name for names in TRLS[base].values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= own
    found = {name for name in own if is_refused(kind, name, tmp_path)} | {"ds3_gather_for_generation"} & own
    assert found & set(named) == set()
    assert own - found - set(named) == set(), "new in TRL; honour it or name it in recipe/unused.py"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in UNUSED for name in sorted(refused(kind))])
def test_what_would_have_no_effect_is_refused_where_it_is_set(kind, name, tmp_path):
    stage = kind(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    refuse_unused([stage], options(kind) - {name, "num_generations_eval"})  # set by RLOOConfig's own checks
    object.__setattr__(stage, name, changed(default_of(kind, name)))
    with pytest.raises(recipe.RecipeError, match=f"^{name}: found .*, expected it left at .*; it has no effect: "):
        refuse_unused([stage], {name})


def test_an_option_without_effect_is_refused_in_a_yaml_and_on_the_command_line(tmp_path, monkeypatch):
    types = types_of("dpo", monkeypatch)
    config = tmp_path / "dpo.yaml"
    config.write_text(f"output_dir: {tmp_path}\nlabel_smoothing_factor: 0.1\n")
    with pytest.raises(recipe.RecipeError, match=r"label_smoothing_factor: found 0\.1, expected it left at 0"):
        recipe.parse(types, ["--config", str(config)])
    with pytest.raises(recipe.RecipeError, match="do_train: found True, expected it left at False"):
        recipe.parse(types, ["--output_dir", str(tmp_path), "--do_train", "true"])
    recipe.parse(types, ["--output_dir", str(tmp_path), "--label_smoothing_factor", "0.0"])


def test_options_of_vllm_ask_for_vllm(tmp_path, monkeypatch):
    types = types_of("ppo", monkeypatch)
    with pytest.raises(recipe.RecipeError, match="vllm_server_port: found 1 without use_vllm, expected use_vllm: true"):
        recipe.parse(types, ["--output_dir", str(tmp_path), "--vllm_server_port", "1"])


@pytest.mark.parametrize("name", sorted(options(recipe.ModelArguments)))
def test_an_option_of_the_model_is_read(name):
    """What each does is in tests/recipe/test_start.py and tests/recipe/test_adapter_kinds.py."""
    ours = names_in(PACKAGE / "recipe" / "start.py", PACKAGE / "recipe" / "quantised.py")
    assert name in ours or f"model_args.{name}," in inspect.getsource(trl.get_peft_config)


@pytest.mark.parametrize("name", sorted(options(recipe.ModelArguments) - {"model_name_or_path"}))
def test_a_model_that_is_made_anew_takes_no_option_of_one_that_is_loaded(name, monkeypatch, tmp_path):
    """Pretraining alone can go without `model_name_or_path`."""
    pretrain = module_of("pretrain", monkeypatch)
    monkeypatch.setattr(recipe.ModelArguments, "__post_init__", lambda self: None)
    given = recipe.ModelArguments(**{name: changed(default_of(recipe.ModelArguments, name))})
    training = types_of("pretrain", monkeypatch)[1](output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(recipe.RecipeError, match=f"^{name}: found .* without model_name_or_path, expected none"):
        recipe.start_of(pretrain.PretrainArguments(), training, given)


def test_seed_is_no_option_of_an_average(monkeypatch, tmp_path):
    types = types_of("average", monkeypatch)
    with pytest.raises(recipe.RecipeError, match="found --seed 1, expected only the options"):
        recipe.parse(types, ["--output_dir", str(tmp_path), "--seed", "1"])

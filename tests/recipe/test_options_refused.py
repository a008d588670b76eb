"""Options and plans of the wrong type, out of bounds or beyond reason: refused by file, line and field."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from llama_align import recipe
from llama_align.recipe import bounds, options
from llama_align.recipe.yaml_files import read_yaml
from llama_align.refine.rules import RULES

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


@pytest.fixture(scope="module")
def dataclasses_of():
    """The dataclasses of every recipe, as its script hands them to `recipe.run`."""
    found = {}
    kept = recipe.run, options.run
    try:
        for name in RECIPES:
            recipe.run = options.run = lambda main, *types, doc=None, name=name: found.setdefault(name, types)
            runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
    finally:
        recipe.run, options.run = kept
    return found


@pytest.fixture
def parsed(dataclasses_of, tmp_path):
    def call(name: str, text: str, *args: str):
        path = tmp_path / "stage.yaml"
        path.write_text(text)
        return recipe.parse(dataclasses_of[name], ["--config", str(path), *args])

    return call


def test_every_number_has_a_bound_that_its_default_keeps(dataclasses_of):
    for name, types in [*dataclasses_of.items(), ("a rule", RULES.values())]:
        for kind in types:
            hints = bounds.hints_of([kind])
            for field in (f for f in dataclasses.fields(kind) if f.init):
                if "number" in bounds.words(hints[field.name]):
                    assert field.name in bounds.BOUNDS, f"{name}: {field.name}"
                made = field.default_factory is not dataclasses.MISSING
                default = field.default_factory() if made else field.default
                if default is not dataclasses.MISSING:
                    bounds.fitting(field.name, default, hints[field.name])


def test_every_bound_is_of_an_option(dataclasses_of):
    known = {name for types in [*dataclasses_of.values(), RULES.values()] for name in bounds.hints_of(types)}
    assert set(bounds.BOUNDS) | set(bounds.ALSO) <= known


WRONG = [
    (
        "sft",
        "model_name_or_path: [a, b]",
        "line 2, field 'model_name_or_path': found a list of 2, expected text or null",
    ),
    ("sft", "model_name_or_path: 5", "found 5, expected text or null; in quotes"),
    (
        "sft",
        "save_strategy: no",
        "found false, expected 'no' or 'steps' or 'epoch' or 'best'; in quotes, if text was meant ('no' is false",
    ),
    ("sft", "tracker: tensorbord", "found 'tensorbord', expected 'none' or 'trackio' or 'tensorboard' or 'wandb'"),
    ("dpo", "optim: adam", "found 'adam', expected one of"),
    ("sft", "too_long: null", "field 'too_long': found nothing, expected text"),
    ("sft", "datasets: {path: a}", "field 'datasets': found an object with path, expected a list of mappings"),
    ("sft", "datasets:\n- {path: a}\n- b", "line 4, field 'datasets[1]': found 'b', expected a mapping"),
    ("sft", "bf16: 'yes'", "field 'bf16': found 'yes', expected true or false or null"),
    ("sft", "packing: 1", "field 'packing': found 1, expected true or false"),
    ("sft", "max_length: '64'", "found '64', expected a whole number or null; without quotes"),
    ("sft", "max_length: 64.0", "found 64.0, expected a whole number"),
    ("sft", "max_steps: true", "found true, expected a whole number"),
    ("sft", "max_steps: 0", "found 0, expected a number of at least 1 and at most 1000000000, or -1"),
    ("sft", "max_steps: -2", "found -2, expected a number of at least 1"),
    ("sft", "seed: -1", "found -1, expected a number of at least 0 and at most 4294967295"),
    ("sft", "learning_rate: 1e30", "found 1e+30, expected a number of at least 0 and at most 10"),
    ("sft", "learning_rate: fast", "found 'fast', expected a number"),
    ("sft", "learning_rate: .nan", "found .nan, expected a finite number"),
    ("sft", "learning_rate: -.inf", "found -.inf, expected a finite number"),
    ("sft", "max_steps: 0100", "found 0100, which YAML reads as 64, expected a decimal number, or quotes"),
    ("sft", "max_steps: 1:30", "found 1:30, which YAML reads as 90, expected a decimal number, or quotes"),
    ("sft", "num_train_epochs: 0", "found 0, expected a number above 0"),
    (
        "sft",
        "lr_scheduler_kwargs: {min_lr_rate: .inf}",
        "field 'lr_scheduler_kwargs.min_lr_rate': found .inf, expected",
    ),
    ("sft", "per_device_train_batch_size: 0", "found 0, expected a number of at least 1"),
    ("sft", "adam_beta2: 1", "found 1, expected a number of at least 0 and below 1"),
    ("sft", "lora_target_modules: [q_proj, 5]", "field 'lora_target_modules[1]': found 5, expected text"),
    ("dpo", "grades: [better, [a]]", "field 'grades[1]': found a list of 1, expected text"),
    ("reward", "part: [0.1, 1.5]", "field 'part[1]': found 1.5, expected a number of at least 0 and at most 1"),
    ("reward", "part: [a, 1]", "field 'part[0]': found 'a', expected a number"),
    ("reward", "objectives: 5", "field 'objectives': found 5, expected a mapping"),
    ("reward", "margin: {better: high}", "field 'margin.better': found 'high', expected a number"),
    ("ppo", "reward_models: [a]", "field 'reward_models': found a list of 1, expected a mapping"),
    ("ppo", "reward_models: {helpfulness: 5}", "field 'reward_models.helpfulness': found 5, expected text"),
    ("ppo", "gamma: 1.1", "found 1.1, expected a number of at least 0 and at most 1"),
    ("ppo", "kl_target: 0", "found 0, expected a number above 0"),
    ("pretrain", "size_overrides: [a]", "found a list of 1, expected a mapping or null"),
    ("annotate", "pairs: -1", "found -1, expected a number of at least 1"),
    ("annotate", "answers: 1e3", "found 1000.0, expected a whole number"),
    ("annotate", "temperature: -0.5", "found -0.5, expected a number of at least 0 and at most 100"),
    ("annotate", "models: [a, null]", "field 'models[1]': found nothing, expected text"),
    ("annotate", "safety_threshold: 2", "found 2, expected a number of at least 0 and at most 1"),
    ("rejection_sampling", "keep: 0.0", "found 0.0, expected a number above 0 and at most 1"),
    ("rejection_sampling", "temperature: [0.5, hot]", "field 'temperature[1]': found 'hot', expected a number"),
    ("rejection_sampling", "gaps: {better: [1]}", "field 'gaps.better': found a list of 1, expected a number"),
    ("rejection_sampling", "top_k: -1", "found -1, expected a number of at least 0"),
    ("average", "weights: [1, -1]", "field 'weights[1]': found -1, expected a number of at least 0"),
    ("evaluate", "models: [a]", "field 'models': found a list of 1, expected a mapping"),
    ("tokenizer", "vocab_size: 0", "found 0, expected a number of at least 1"),
    ("sandbox", "documents: -5", "found -5, expected a number of at least 0"),
    ("sandbox", "rambling: 1.5", "found 1.5, expected a number of at least 0 and at most 1"),
]


@pytest.mark.parametrize(("name", "text", "said"), WRONG)
def test_an_option_of_the_wrong_type_or_out_of_bounds(parsed, name, text, said, tmp_path):
    key = text.partition(":")[0]
    with pytest.raises(recipe.RecipeError) as error:
        parsed(name, f"output_dir: out\n{text}\n")
    assert str(error.value).startswith(f"{tmp_path / 'stage.yaml'}, line ")
    assert f"field '{key}" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--learning_rate", "nan"], "command line, field 'learning_rate': found nan, expected a number"),
        (["--learning_rate", "1e30"], "command line, field 'learning_rate': found 1e+30, expected a number of at"),
        (["--max_steps", "0"], "command line, field 'max_steps': found 0, expected a number of at least 1"),
        (["--learning", "1"], "command line: found --learning 1, expected only the options --help lists"),
        (["--config", "b.yaml"], "--config: found 2 of them, expected one file"),
    ],
)
def test_a_command_line_out_of_bounds(parsed, args, said):
    with pytest.raises(recipe.RecipeError) as error:
        parsed("sft", "output_dir: out", *args)
    assert said in str(error.value)


def test_what_is_read_kindly(parsed):
    """1e-4 is a number as in YAML 1.2; one text or number alone is a list of one; defaults are never touched."""
    args, training, _ = parsed(
        "dpo", "output_dir: out\nlearning_rate: 1e-4\ngrades: better\nresume_from_checkpoint: true"
    )
    assert (training.learning_rate, args.grades, training.resume_from_checkpoint) == (1e-4, ["better"], True)
    (sampling,) = parsed("rejection_sampling", "output_dir: out\ntemperature: 1\nmodel: a\nearlier: b")
    assert (sampling.temperature, sampling.model, sampling.earlier) == ([1], ["a"], ["b"])


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
FILES = [
    ("a: 1\nb: 2\na: 3", "line 3, field 'a': found it a second time, after line 1, expected it once"),
    ("a: {b: 1, b: 2}", "line 1, field 'a.b': found it a second time"),
    (ALIASES, "found more than 20,000 values with all aliases, expected fewer"),
    ("a: &a {<<: [*a]}", "found a value that contains itself"),
    ("a: &a [*a]", "field 'a[0]': found a value that contains itself, expected one that ends"),
    ("a: " + "[" * 60 + "]" * 60, "found values nested too deeply, expected at most 40 levels"),
    ("a: " + "[" * 5000, "found values nested too deeply"),
    ("a: 2024-01-01", "line 1, field 'a': found the date 2024-01-01, expected text (in quotes)"),
    ("a: !!python/object/apply:os.system [ls]", "found the tag !!python/object/apply:os.system, expected plain"),
    ("a: !!binary aGk=", "found the tag !!binary"),
    ("a: " + "9" * 5000, "found a number of 5000 characters, expected at most 100"),
    ("a: " + "9" * 30, "expected a whole number of at most 64 bits"),
    ('a: "\\ud800"', "found a character that no file name or text can have, expected Unicode text"),
    ('a: "x\\0y"', "found a character that no file name or text can have"),
    ("? [a, b]\n: 1", "found a list or mapping as key, expected text"),
    ("true: 1", "found the key true, expected text"),
    ("a: {1: x, y: z}", "found the key y beside keys of another type, expected all of one"),
    ("a: [1", "line 1: found no valid YAML"),
    ("a: \x07", "found no valid YAML"),
    ("a: 1\n---\nb: 2", "line 2: found no valid YAML"),
    ("a: *nobody", "line 1: found no valid YAML"),
    ("x" * 1_000_001, "found 1,000,001 bytes, expected at most 1,000,000"),
    ("just text", "found text, expected a mapping"),
    (b"a: \xff", "found no readable text"),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_a_file_beyond_reason(tmp_path, text, said):
    path = tmp_path / "stage.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(recipe.RecipeError) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert len(str(error.value)) < 600


def test_aliases_and_merges_of_a_modest_size_are_read(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb:\n  <<: *a\n  x: 2\ngrades: {4: better, 3: better}\n")
    file = read_yaml(path)
    assert file.content["b"] == {"x": 2, "y": [1, 2]}
    assert file.content["grades"] == {4: "better", 3: "better"}
    assert file.where("b", "x") == f"{path}, line 4, field 'b.x'"
    assert file.where("b", "y", 1) == f"{path}, line 1, field 'b.y[1]'"


@pytest.mark.parametrize("variables", ["{LD_PRELOAD: evil.so}", "{OMP_NUM_THREADS: 2}", "5", "null"])
def test_a_file_sets_no_variables_of_the_environment(parsed, variables, monkeypatch):
    with pytest.raises(
        recipe.RecipeError, match="line 2, field 'env': found variables of the environment, expected no"
    ):
        parsed("sft", f"output_dir: a\nenv: {variables}")


def test_a_library_that_fails_over_an_option_is_a_users_mistake(parsed):
    for text in ("accelerator_config: {nonsense: 1}", "lr_scheduler_kwargs: '{'", "fsdp: everything"):
        with pytest.raises(recipe.RecipeError, match=r"^options: "):
            parsed("sft", f"output_dir: a\n{text}")


def test_a_name_that_no_library_has(parsed):
    with pytest.raises(recipe.RecipeError, match=r"line 2, field 'optim': found 'adamm', expected one of"):
        parsed("sft", "output_dir: a\noptim: adamm")


def test_arguments_that_a_schedule_does_not_take(parsed):
    for text in ("{min_lr_rate: []}", "{min_lr: 1.0e-5, nonsense: 1}", '\'{"min_lr_rate": "a"}\''):
        options = f"output_dir: a\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {text}"
        with pytest.raises(
            recipe.RecipeError, match=r"^lr_scheduler_kwargs: found .*, expected arguments of that sched"
        ):
            parsed("sft", options)


def test_a_warm_up_that_the_schedule_does_not_have(parsed):
    options = "output_dir: a\nlr_scheduler_type: constant\nlr_scheduler_kwargs: {}"
    with pytest.raises(recipe.RecipeError, match="warmup_steps: found 10 with lr_scheduler_type constant, which has"):
        parsed("pretrain", f"{options}\nwarmup_steps: 10")
    parsed("sft", f"{options}\nwarmup_steps: 0")
    parsed("pretrain", options)

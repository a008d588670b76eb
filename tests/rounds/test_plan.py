"""Plans: what is refused, and what changes a step's identity."""

import pytest
import yaml

from llama_align.rounds import Plan, PlanError


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("make", "use"):
        (folder / f"{name}.py").write_text("")
    return folder


def write(tmp_path, steps, **extra):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "steps": steps} | extra))
    return path


MAKE = {"name": "first", "recipe": "make", "set": {"size": 3}}
USE = {"name": "second", "recipe": "use", "set": {"source": "{first}/numbers.txt"}}


def test_references_become_directories_and_inputs(tmp_path, recipes):
    plan = Plan.load(write(tmp_path, [MAKE, USE], seed=7), recipes)
    assert plan.inputs("second") == ["first"]
    assert plan.configs["first"] == {"seed": 7, "size": 3}


def test_a_folder_is_an_input_whether_or_not_its_name_has_a_slash(tmp_path, recipes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "auto"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    config = {"model_name_or_path": "model", "reward_models": {"helpfulness": "model"}, "engine": "auto"}
    step = {"name": "only", "recipe": "use", "set": config}

    def identity():
        return Plan.load(write(tmp_path, [step]), recipes).identities()["only"]

    first = identity()
    (tmp_path / "auto" / "config.json").write_text("{ }")  # of the same name as an option's value, by chance
    assert identity() == first
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert identity() != first


def test_a_recipe_that_draws_no_random_number_is_given_no_seed(tmp_path, recipes):
    (recipes / "average.py").write_text("")
    step = {"name": "mean", "recipe": "average", "set": {"models": ["a", "b"]}}
    assert Plan.load(write(tmp_path, [step], seed=7), recipes).configs["mean"] == {"models": ["a", "b"]}


def test_a_plans_seed_is_added_to_that_of_every_step(tmp_path, recipes):
    (tmp_path / "stage.yaml").write_text("seed: 0\n")
    (tmp_path / "other.yaml").write_text("seed: 5\n")
    steps = [
        MAKE,
        {"name": "stage", "recipe": "make", "config": "stage.yaml"},
        {"name": "other", "recipe": "make", "config": "other.yaml"},
        {"name": "again", "recipe": "make", "config": "other.yaml", "set": {"seed": 1}},
    ]

    def seeds(override=None, **extra):
        plan = Plan.load(write(tmp_path, steps, **extra), recipes, override)
        return plan.seed, [config["seed"] for config in plan.configs.values()]

    assert seeds() == (0, [0, 0, 5, 1])
    assert seeds(seed=3) == (3, [3, 3, 8, 4])
    assert seeds(2, seed=3) == (2, [2, 2, 7, 3])
    assert seeds(0, seed=3) == (0, [0, 0, 5, 1])


def test_a_launch_stands_for_the_plans_own_but_not_for_a_steps(tmp_path, recipes):
    for name in ("sft", "average"):
        (recipes / f"{name}.py").write_text("")
    files = [tmp_path / f"{name}.yaml" for name in ("plans", "steps", "given")]
    for file in files:
        file.write_text("mixed_precision: bf16\n")
    plans, steps, given = map(str, files)
    rows = [
        {"name": "a", "recipe": "sft"},
        {"name": "b", "recipe": "sft", "launch": steps},
        {"name": "c", "recipe": "average"},
    ]
    path = write(tmp_path, rows, launch=plans)
    assert [step.launch for step in Plan.load(path, recipes).steps] == [plans, steps, None]
    assert [step.launch for step in Plan.load(path, recipes, launch=given).steps] == [given, steps, None]
    with pytest.raises(PlanError, match="step 'a', field 'launch': found no file 'nowhere'"):
        Plan.load(path, recipes, launch="nowhere")


@pytest.mark.parametrize("seed", [-1, "1", 1.5, True, None])
def test_a_seed_that_is_none_is_refused(tmp_path, recipes, seed):
    with pytest.raises(PlanError, match=r"field 'seed': found .*, expected a whole number"):
        Plan.load(write(tmp_path, [MAKE], seed=seed), recipes)
    with pytest.raises(PlanError, match=r"step 'first', field 'set.seed': found .*, expected a whole number"):
        Plan.load(write(tmp_path, [MAKE | {"set": {"seed": seed}}]), recipes)


def test_templates_over_columns_and_environment_variables_are_no_references(tmp_path, recipes):
    source = {"path": "${SOME_FOLDER}/a.jsonl", "columns": {"prompt": "{context} {question}"}}
    plan = Plan.load(write(tmp_path, [{"name": "first", "recipe": "make", "set": {"datasets": [source]}}]), recipes)
    assert plan.inputs("first") == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([USE], "found {first}, expected the name of an earlier step"),
        ([MAKE, MAKE], "found the name twice"),
        ([{"name": "first", "recipe": "maek"}], "'recipe': found 'maek', expected one of make, use"),
        ([{"name": "a b", "recipe": "make"}], "'name': found 'a b'"),
        ([{"name": "first", "recipe": "make", "sets": {}}], "field 'sets': unknown"),
        ([], "expected a list of steps"),
        ([{"name": "first", "recipe": "make", "config": "none.yaml"}], "none.yaml: found no such file"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(tmp_path, recipes, steps, message):
    with pytest.raises(PlanError) as error:
        Plan.load(write(tmp_path, steps), recipes)
    assert message in str(error.value)


TEXTS = [  # of a plan; MAKE stands on line 3 where it is good
    ("steps: 5", "line 1, field 'steps': found 5, expected a list of steps"),
    ("steps: []", "line 1, field 'steps': found an empty list, expected a list of steps"),
    ("name: [a]\nsteps: [{name: a, recipe: make}]", "line 1, field 'name': found a list of 1, expected text"),
    ("name: ''\nsteps: [{name: a, recipe: make}]", "line 1, field 'name': found '', expected text"),
    ("seed: one\nsteps: [{name: a, recipe: make}]", "line 1, field 'seed': found 'one', expected a"),
    ("seed: -1\nsteps: [{name: a, recipe: make}]", "line 1, field 'seed': found -1, expected a"),
    ("seed: true\nsteps: [{name: a, recipe: make}]", "line 1, field 'seed': found true, expected a"),
    ("seed: 1.5\nsteps: [{name: a, recipe: make}]", "line 1, field 'seed': found 1.5, expected a"),
    ("launch: 5\nsteps: [{name: a, recipe: make}]", "line 1, field 'launch': found 5, expected text"),
    ("steps:\n- 5", "line 2, step 1: found 5, expected a mapping with name and recipe"),
    ("steps:\n- [a, b]", "line 2, step 1: found a list of 2, expected a mapping with name and recipe"),
    ("steps:\n- name: 5\n  recipe: make", "line 2, step 1, field 'name': found 5, expected at most 100 letters"),
    ("steps:\n- recipe: make", "line 2, step 1, field 'name': found nothing, expected at most 100 letters"),
    (f"steps:\n- name: {'a' * 101}\n  recipe: make", "line 2, step 1, field 'name': found 'aaaaaa"),
    ("steps:\n- name: a\n  recipe: make\n  set: 5", "line 4, step 1, field 'set': found 5, expected a mapping"),
    (
        "steps:\n- name: a\n  recipe: make\n  set: null",
        "line 4, step 1, field 'set': found nothing, expected a mapping",
    ),
    (
        "steps:\n- name: a\n  recipe: make\n  set: {3: 4}",
        "line 4, step 1, field 'set': found an object with 3, expected",
    ),
    (
        "steps:\n- name: a\n  recipe: make\n  set: {output_dir: b}",
        "line 4, step 'a', field 'set.output_dir': found one",
    ),
    ("steps:\n- name: a\n  recipe: make\n  config: 5", "line 4, step 1, field 'config': found 5, expected text"),
    (f"steps:\n- name: a\n  recipe: make\n  config: {'b' * 300}", "line 4, step 1, field 'config': found 'bbbb"),
    ("steps:\n- name: a\n  recipe: make\n  launch: none.yaml", "line 4, step 'a', field 'launch': found no file 'none"),
    (
        "steps:\n- name: a\n  recipe: rounds",
        "line 3, step 'a', field 'recipe': found 'rounds', expected one of make, use",
    ),
    ("steps:\n- name: a\n  recipe: make\n  recipe: use", "line 4, field 'steps[0].recipe': found it a second time"),
    (
        "steps:\n- name: a\n  recipe: make\n  set:\n    b: ['x', '{a}/c']",
        "line 5, step 'a', field 'set.b[1]': found {a}",
    ),
    ("steps: &a\n- name: a\n  recipe: make\n  set: {b: *a}", "found a value that contains itself"),
    ("steps: 2024-01-01", "found the date 2024-01-01"),
]


@pytest.mark.parametrize(("text", "said"), TEXTS)
def test_a_plan_of_the_wrong_types_is_refused_by_line_and_field(tmp_path, recipes, text, said):
    (recipes / "rounds.py").write_text("")
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError) as error:
        Plan.load(path, recipes)
    assert str(error.value).startswith(f"{path}, line ")
    assert said in str(error.value)


def test_a_reference_in_a_stages_yaml_is_named_there(tmp_path, recipes):
    (tmp_path / "stage.yaml").write_text("size: 3\nsource: '{later}/x'\n")
    path = write(tmp_path, [{"name": "first", "recipe": "make", "config": "stage.yaml"}])
    with pytest.raises(
        PlanError, match=r"stage\.yaml, line 2, field 'source': found \{later\}, expected the name of an"
    ):
        Plan.load(path, recipes)
    path = write(tmp_path, [{"name": "first", "recipe": "make", "config": "stage.yaml", "set": {"source": "x"}}])
    assert Plan.load(path, recipes).configs["first"]["source"] == "x"


@pytest.mark.parametrize("text", ["costs $5", "x" * 5000, "a/" * 3000, "${NOT_SET}/a", "a ~ b", "$", "{{x", "a\tb"])
def test_a_text_that_names_no_file_has_no_file_in_its_identity(tmp_path, recipes, text, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    plan = Plan.load(write(tmp_path, [{"name": "first", "recipe": "make", "set": {"note": text}}]), recipes)
    assert plan.configs["first"]["note"] == text
    assert set(plan.identities()) == {"first"}


def test_an_unknown_key_of_the_plan_is_refused(tmp_path, recipes):
    with pytest.raises(PlanError, match="'stepps': unknown"):
        Plan.load(write(tmp_path, [MAKE], stepps=[]), recipes)


def identities(tmp_path, recipes, *steps):
    return Plan.load(write(tmp_path, list(steps)), recipes).identities()


def test_a_setting_changes_the_identity_of_its_step_and_of_all_that_use_it(tmp_path, recipes):
    before = identities(tmp_path, recipes, MAKE, USE)
    assert before == identities(tmp_path, recipes, MAKE, USE)
    after = identities(tmp_path, recipes, MAKE | {"set": {"size": 4}}, USE)
    assert before["first"] != after["first"]
    assert before["second"] != after["second"]
    later = identities(tmp_path, recipes, MAKE, USE | {"set": USE["set"] | {"more": 1}})
    assert before["first"] == later["first"]
    assert before["second"] != later["second"]


def test_the_content_of_a_named_file_is_part_of_the_identity(tmp_path, recipes):
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    step = {"name": "first", "recipe": "make", "set": {"datasets": [{"path": str(data)}]}}
    before = identities(tmp_path, recipes, step)
    data.write_text("two")
    assert identities(tmp_path, recipes, step) != before


@pytest.mark.parametrize("value", [(1, 1.0), ([0, 0.5], [0.0, 0.5]), ({"a": [2]}, {"a": [2.0]})])
def test_equal_numbers_are_the_same_setting(tmp_path, recipes, value):
    found = [identities(tmp_path, recipes, MAKE | {"set": {"keep": one}}) for one in value]
    assert found[0] == found[1]
    assert found[0] != identities(tmp_path, recipes, MAKE | {"set": {"keep": 0.25}})
    assert identities(tmp_path, recipes, MAKE | {"set": {"keep": 1}}) != identities(
        tmp_path, recipes, MAKE | {"set": {"keep": True}}
    )


def test_the_precision_of_a_launch_is_part_of_a_steps_identity_and_its_processes_are_not(tmp_path, recipes):
    launch = tmp_path / "launch.yaml"

    def identity(**content):
        launch.write_text(yaml.safe_dump(content))
        plan = Plan.load(write(tmp_path, [MAKE | {"launch": str(launch)}]), recipes)
        return plan.identities()["first"]

    narrow = identity(mixed_precision="bf16", num_processes=2)
    assert narrow == identity(mixed_precision="bf16", num_processes=8)
    assert len({narrow, identity(mixed_precision="fp16"), identity(mixed_precision="no")}) == 3
    assert identity(mixed_precision="no") == identity(num_processes=2)

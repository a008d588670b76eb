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


@pytest.mark.parametrize("seed", [-1, "1", 1.5, True, None])
def test_a_seed_that_is_none_is_refused(tmp_path, recipes, seed):
    with pytest.raises(PlanError, match=r"field 'seed': found .*, expected an integer of at least 0"):
        Plan.load(write(tmp_path, [MAKE], seed=seed), recipes)
    with pytest.raises(PlanError, match=r"step 'first', field 'seed': found .*, expected an integer of at least 0"):
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

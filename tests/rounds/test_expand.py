"""Rounds written out: what a repeated block becomes, and what is refused by file, line, step and field."""

import pytest
import yaml

from llama_align.rounds import Plan, PlanError

PLAN = """
name: test
seed: 10
steps:
  - {name: sft, recipe: make}
  - repeat:
      rounds: 3
      start: {best: "{sft}"}
      steps:
        - name: batch
          recipe: make
          set: {models: ["{best@previous}", "{best@all}"], round: "{round}", note: "round {round}"}
        - name: reward
          recipe: make
          set: {datasets: [a.jsonl, {path: "{batch@all}/x.jsonl", part: [0, 1], columns: {prompt: "{q}"}}], rate: 1}
          from: {3: {rate: 3}, 2: {rate: 2, epochs: 5}}
        - {name: ppo, recipe: make, rounds: [3], set: {model: "{reward}"}}
        - name: best
          recipe: use
          set: {models: {kept: "{best@previous}", new: "{reward}"}, earlier: "{best@all}/samples"}
          from: {3: {models: {kept: "{best@previous}", ppo: "{ppo}"}}}
  - {name: last, recipe: use, set: {models: {round: "{best@all}"}, best: "{best@last}", first: "{best-1}", seed: 4}}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("make", "use"):
        (tmp_path / "recipes" / f"{name}.py").write_text("")

    def load(text):
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return Plan.load(path, tmp_path / "recipes")

    return load


def test_a_block_becomes_its_steps_of_every_round(load):
    plan = load(PLAN)
    assert [step.name for step in plan.steps] == [
        "sft",
        *("batch-1", "reward-1", "best-1", "batch-2", "reward-2", "best-2"),
        *("batch-3", "reward-3", "ppo-3", "best-3", "last"),
    ]
    assert [(step.of, step.round) for step in plan.steps[-2:]] == [("best", 3), (None, None)]


def test_references_name_this_round_the_one_before_and_all_so_far(load):
    configs = load(PLAN).configs
    assert configs["batch-1"]["models"] == ["{sft}", "{sft}"]
    assert configs["batch-3"]["models"] == ["{best-2}", "{sft}", "{best-1}", "{best-2}"]
    assert (configs["batch-3"]["round"], configs["batch-3"]["note"]) == (3, "round 3")
    columns = {"part": [0, 1], "columns": {"prompt": "{q}"}}
    rows = [{"path": f"{{batch-{n}}}/x.jsonl"} | columns for n in (1, 2)]
    assert configs["reward-2"]["datasets"] == ["a.jsonl", *rows]
    assert configs["best-1"]["models"] == {"kept": "{sft}", "new": "{reward-1}"}
    assert configs["best-1"]["earlier"] == ["{sft}/samples"]
    assert configs["best-3"]["models"] == {"kept": "{best-2}", "ppo": "{ppo-3}"}
    rounds = {"round-0": "{sft}"} | {f"round-{n}": f"{{best-{n}}}" for n in (1, 2, 3)}
    assert configs["last"] == {"models": rounds, "best": "{best-3}", "first": "{best-1}", "seed": 14}


def test_options_differ_from_a_round_on_and_every_round_draws_anew(load):
    configs = load(PLAN).configs
    assert [configs[f"reward-{n}"]["rate"] for n in (1, 2, 3)] == [1, 2, 3]
    assert [configs[f"reward-{n}"].get("epochs") for n in (1, 2, 3)] == [None, 5, 5]
    assert [configs[f"batch-{n}"]["seed"] for n in (1, 2, 3)] == [10, 11, 12]


def test_the_number_of_rounds_changes_no_round_there_was(load):
    before, more = (
        load(PLAN).identities(),
        load(PLAN.replace("rounds: 3", "rounds: 4").replace("[3]", "[3, 4]")).identities(),
    )
    assert {name: more[name] for name in before if name != "last"} == {n: i for n, i in before.items() if n != "last"}
    assert more["last"] != before["last"]


def test_a_setting_of_a_round_changes_that_round_and_what_follows(load):
    before, other = load(PLAN).identities(), load(PLAN.replace("2: {rate: 2", "2: {rate: 7")).identities()
    changed = [name for name in before if before[name] != other[name]]
    assert changed == ["reward-2", "best-2", "batch-3", "reward-3", "ppo-3", "best-3", "last"]


def test_a_plan_written_out_by_hand_is_the_same_run(load):
    plan = load(PLAN)
    rows = [{"name": step.name, "recipe": step.recipe, "set": dict(plan.configs[step.name])} for step in plan.steps]
    assert load(yaml.safe_dump({"name": "test", "steps": rows})).identities() == plan.identities()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'model: "{reward}"',
            'model: "{best}"',
            "line 17, step 'ppo-3', field 'set.model': found {best}, expected a st",
        ),
        ('model: "{reward}"', 'model: "{late}"', "step 'ppo-3', field 'set.model': found {late}, expected the name of"),
        ('model: "{reward}"', 'model: "{sft@all}"', "found {sft@all}, expected the name of a step that is repeated"),
        ('model: "{reward}"', 'model: "{best@next}"', "found {best@next}, expected all, previous or last behind @"),
        ('model: "{reward}"', 'model: "{best@last}"', "found {best@last}, expected it behind the block of best"),
        (
            'model: "{reward}"',
            'model: "{ppo@previous}"',
            "in round 3 there is none before: it had no part in that round",
        ),
        (
            'start: {best: "{sft}"}',
            "start: {}",
            "line 12, step 'batch-1', field 'set.models[0]': found {best@previous}",
        ),
        ('start: {best: "{sft}"}', 'start: {sft: "x"}', "field 'repeat.start.sft': found no step 'sft' in the block"),
        ('start: {best: "{sft}"}', 'start: {best: "{new}"}', "line 8, repeat, field 'repeat.start.best': found {new}"),
        (
            "rounds: [3]",
            "rounds: [4]",
            "line 17, step 'ppo', field 'rounds': found a list of 1, expected a list of rou",
        ),
        ("rounds: [3]", "rounds: 3", "step 'ppo', field 'rounds': found 3, expected a list of rounds from 1 to 3"),
        (
            "3: {rate: 3}",
            "9: {rate: 3}",
            "line 16, step 'reward', field 'from.9': found 9, expected a round from 2 to 3",
        ),
        ("3: {rate: 3}", "3: 5", "step 'reward', field 'from.3': found 5, expected a mapping of options"),
        (
            "3: {rate: 3}",
            "3: {a: '{new}'}",
            "line 16, step 'reward-3', field 'from.3.a': found {new}, expected the nam",
        ),
        ("3: {rate: 3}", "3: {seed: x}", "step 'reward-3', field 'from.3.seed': found 'x', expected a whole number"),
        ("rounds: 3", "rounds: 0", "line 7, repeat, field 'repeat.rounds': found 0, expected a number of 1 to 100"),
        ("rounds: 3", "round: 3", "field 'repeat.round': unknown, expected rounds, start, steps"),
        ("name: batch", "name: sft", "step 'sft', field 'name': found the name twice, expected names that differ"),
        ("name: batch", "name: round", "step 'round', field 'name': found 'round', which {round} is the number of"),
        (
            'best: "{best@last}"',
            'best: "{best}"',
            "found {best}, a step that is repeated, expected {best@last}, {best@",
        ),
        (
            'best: "{best@last}"',
            'best: "{best@previous}"',
            "expected it within the block of best; behind it {best@last}",
        ),
        ('best: "{best@last}"', 'best: ["{best@all}{ppo@all}"]', "found {best@all} and {ppo@all} in one value"),
        (
            "set: {models: [",
            "sets: {models: [",
            "field 'sets': unknown, expected name, recipe, config, set, launch, res",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_line_step_and_field(load, old, new, said):
    assert old in PLAN
    with pytest.raises(PlanError) as error:
        load(PLAN.replace(old, new, 1))
    assert said in str(error.value)
    assert "plan.yaml, line " in str(error.value)


def test_a_stages_own_file_knows_no_rounds(load, tmp_path):
    (tmp_path / "stage.yaml").write_text("source: '{best@previous}'\n")
    with pytest.raises(
        PlanError, match=r"stage\.yaml, line 1, field 'source': found \{best@previous\}, expected the na"
    ):
        load(PLAN.replace("rounds: [3]", "config: stage.yaml"))


def test_a_block_stands_alone_in_its_row(load):
    with pytest.raises(PlanError, match="field 'name': found it beside repeat, expected repeat alone"):
        load("steps:\n- {repeat: {rounds: 2, steps: [{name: a, recipe: make}]}, name: b}")

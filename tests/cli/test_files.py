"""What comes with the package: listed, copied, looked at, run."""

import json
import sys

import yaml

from llama_align.cli import main
from llama_align.cli.run import command_of
from llama_align.recipe.outline import outline
from llama_align.runtime.shipped import launch_file, scripts, shipped


def test_ls_names_all_there_is(capsys):
    assert main(["ls"]) == 0
    said = capsys.readouterr().out
    for kind, names in (("recipes", scripts()), ("accelerate_configs", ["zero3", "ddp"]), ("data_cards", ["sandbox"])):
        assert shipped(kind).is_dir()
        assert all(f"  {name} " in said or f"  {name}\n" in said for name in names)
    assert "plans: llama2.yaml, llama3.yaml, rounds.yaml" in said
    assert main(["ls", "herd-nano"]) == 0
    assert "  dpo.yaml" in capsys.readouterr().out
    assert main(["ls", "herd-huge"]) == 2


def test_cp_copies_whole_folders_and_single_files_with_a_stamp(tmp_path, capsys):
    for name, to in (("herd-nano", "mine"), ("herd-nano/dpo.yaml", "dpo.yaml"), ("dpo", "dpo.py"), ("zero3", "z.yaml")):
        assert main(["cp", name, str(tmp_path / to)]) == 0
    assert main(["cp", "sandbox.md", str(tmp_path / "x")]) == 2
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        path.name for path in (shipped("recipes") / "herd-nano").iterdir()
    }
    original = (shipped("recipes") / "herd-nano" / "dpo.yaml").read_text()
    assert (tmp_path / "mine" / "dpo.yaml").read_text() == f"# herd-nano/dpo.yaml of llama_align 0.1.0\n{original}"
    assert yaml.safe_load((tmp_path / "z.yaml").read_text()) == yaml.safe_load(launch_file("zero3").read_text())
    assert outline(tmp_path / "dpo.py").names[0] == "DPOArguments"
    assert main(["cp", "llama-3.2-1b", str(tmp_path / "published")]) == 0
    stamps = [path.read_text().partition("\n")[0] for path in (tmp_path / "published").glob("*.yaml")]
    assert all(stamp.startswith("# llama-3.2-1b/") for stamp in stamps)
    capsys.readouterr()
    assert main(["cp", "herd-nano", str(tmp_path / "mine")]) == 2
    assert "expected a name that is not there yet" in capsys.readouterr().err
    for name in ("../pyproject.toml", "herd-nano/../../LICENSE", "nothing"):
        assert main(["cp", name, str(tmp_path / "away")]) == 2
    assert not (tmp_path / "away").exists()


def test_run_becomes_the_recipes_process(tmp_path, capsys):
    config = tmp_path / "dpo.yaml"
    config.write_text("output_dir: out\n")
    script = str(scripts()["dpo"])
    assert command_of(["dpo", "--config", str(config)], None) == [sys.executable, script, "--config", str(config)]
    launched = command_of(["dpo", "--config", str(config), "--launch", "zero3", "--beta", "0.2"], None)
    assert launched[:5] == [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(launch_file("zero3")),
    ]
    assert launched[5:] == [script, "--config", str(config), "--beta", "0.2"]
    config.write_text("output_dir: out\nbeta: high\n")
    wrong = {
        ("run", "dpoo"): "RECIPE: found 'dpoo', expected a script or one of annotate",
        ("run", "dpo", "--config", str(config)): "line 2, field 'beta': found 'high', expected a number",
        ("run", "dpo", "--output_dir", "x", "--launch", "zero9"): "launch: found 'zero9', expected a file or one of",
        ("run", "dpo", "--output_dir", "x", "--bta", "1"): "command line: found --bta 1",
        ("run",): "RECIPE: found none",
    }
    for args, said in wrong.items():
        assert main(args) == 2
        assert said in capsys.readouterr().err


def test_every_yaml_that_comes_with_the_package_is_right(capsys):
    files = [*shipped("recipes").glob("*/*.yaml"), *shipped("accelerate_configs").glob("*.yaml")]
    assert main(["validate", *map(str, files)]) == 0
    assert capsys.readouterr().out.count("nothing wrong") == len(files)


STAGE = """\
output_dir: out
learning_rte: 1
beta: high
max_steps: 0
bf16: true
"""
PLAN = """\
name: [mine]
sed: 1
steps:
- {name: a, recipe: sandbox, set: {documents: -1, peple: 2}}
- {name: b, recipe: dpoo}
- name: c
  recipe: dpo
  config: dpo.yaml
  launch: zero9
  set: {model_name_or_path: "{a}", output_dir: x}
"""


def test_validate_names_every_mistake_with_its_line(tmp_path, capsys):
    (tmp_path / "dpo.yaml").write_text(STAGE)
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "a.yaml").write_text("distributed_type: MULTI\nmixed_precision: fp32\nnum_processs: 2\n")
    assert main(["validate", str(tmp_path / "dpo.yaml")]) == 2
    stage = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[2].partition(": ")[0] for line in stage] == [
        " line 2, field 'learning_rte'",
        " line 3, field 'beta'",
        " line 4, field 'max_steps'",
    ]
    assert "did you mean 'learning_rate'?" in stage[0]
    assert main(["validate", str(tmp_path / "plan.yaml")]) == 2
    plan = capsys.readouterr().out
    for said in (
        "line 1, field 'name': found a list of 1, expected text",
        "line 2, field 'sed': unknown, did you mean 'seed'?",
        "line 4, step 'a', field 'set.documents': found -1, expected a number of at least 0",
        "line 4, step 'a', field 'set.peple': unknown option, did you mean 'people'?",
        "line 5, step 'b', field 'recipe': found 'dpoo', did you mean 'dpo'?",
        "line 9, step 'c', field 'launch': found no file 'zero9'",
        "line 10, step 'c', field 'set.output_dir': found one, expected none",
        *stage,
    ):
        assert said in plan
    assert len(plan.splitlines()) == 7 + len(stage)
    assert main(["validate", str(tmp_path / "a.yaml")]) == 2
    said = capsys.readouterr().out
    assert "line 1, field 'distributed_type': found 'MULTI', expected NO, MULTI_CPU" in said
    assert "line 2, field 'mixed_precision': found 'fp32'" in said
    assert "line 3, field 'num_processs': unknown option, did you mean 'num_processes'?" in said
    (tmp_path / "sft.yaml").write_text(
        "output_dir: out\ntracker: tensorbord\nlr_scheduler_type: cosin\nsave_strategy: no\n"
    )
    assert main(["validate", str(tmp_path / "sft.yaml")]) == 2
    said = capsys.readouterr().out
    assert "line 2, field 'tracker': found 'tensorbord', expected 'none' or 'trackio'" in said
    assert "line 3, field 'lr_scheduler_type': found 'cosin', expected 'linear' or" in said
    assert (
        "line 4, field 'save_strategy': found false, expected 'no' or 'steps' or 'epoch' or 'best'; in quotes" in said
    )
    (tmp_path / "dpo.yaml").write_text(
        "dataset_name: a\neval_datasets: []\ndatasets:\n- {path: a}\n- {defualt_grade: a}\n"
    )
    assert main(["validate", str(tmp_path / "dpo.yaml")]) == 2
    said = capsys.readouterr().out
    assert "line 1, field 'dataset_name': unknown option; datasets: [{path: NAME}] says what is read" in said
    assert "line 2, field 'eval_datasets': unknown option; nothing is held out while this trains" in said
    assert "line 5, field 'datasets[1].defualt_grade': unknown key of a source, did you mean 'default_grade'?" in said
    (tmp_path / "other.yaml").write_text("seed: 0\n")
    assert main(["validate", str(tmp_path / "other.yaml")]) == 2
    assert "expected --recipe NAME" in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "other.yaml"), "--recipe", "dpo"]) == 0


def test_keys_of_sources_are_looked_at_within_a_plan_and_its_yamls(tmp_path, capsys):
    (tmp_path / "dpo.yaml").write_text("output_dir: out\ndatasets:\n- {path: a, wheight: 1}\n")
    (tmp_path / "eval.yaml").write_text("output_dir: out\n")
    own = "set: {texts: [{pth: a}]}"
    steps = f"- {{name: a, recipe: dpo, config: dpo.yaml}}\n- {{name: b, recipe: evaluate, config: eval.yaml, {own}}}\n"
    (tmp_path / "plan.yaml").write_text(f"name: p\nsteps:\n{steps}")
    assert main(["validate", str(tmp_path / "plan.yaml")]) == 2
    said = capsys.readouterr().out
    assert "dpo.yaml, line 3, field 'datasets[0].wheight': unknown key of a source, did you mean 'weight'?" in said
    assert "step 'b', field 'set.texts[0].pth': unknown key of a source, did you mean 'path'?" in said
    assert len(said.splitlines()) == 2


def test_faults_within_a_step_are_all_named(tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text(
        "steps:\n- {nam: a, recipe: 5, set: [1]}\n- repeat: {rounds: 2, steps: [{x: 1}]}\n"
    )
    assert main(["validate", str(tmp_path / "plan.yaml")]) == 2
    said = capsys.readouterr().out
    for field in (
        "'nam': unknown",
        "'name': found nothing",
        "'recipe': found 5",
        "'set': found a list",
        "'x': unknown",
    ):
        assert f"field {field}" in said


def test_a_schema_says_what_the_recipe_takes(tmp_path, capsys):
    assert main(["schema", "dpo"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["additionalProperties"] is False
    options = found["properties"]
    assert options["nll_coefficient"] | {"description": ""} == {
        **{"type": "number", "minimum": 0, "maximum": 1e6, "default": 0.2, "description": ""},
    }
    assert options["max_steps"]["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 1e9}, {"enum": [-1]}]
    assert options["grades"]["anyOf"] == [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]
    assert options["reference"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert main(["schema", "--to", str(tmp_path / "schemas")]) == 0
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "schemas").iterdir()}
    assert written.keys() == scripts().keys() - {"rounds"}
    for name, schema in written.items():
        for path in shipped("recipes").glob(f"*/{name}.yaml"):
            assert yaml.safe_load(path.read_text()).keys() <= schema["properties"].keys()
    assert main(["schema"]) == 2

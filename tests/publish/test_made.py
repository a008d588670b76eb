"""How a checkpoint came to be, where it was made of several others or no trainer made it."""

import json

import pytest

from llama_align import recipe
from llama_align.publish import licences
from llama_align.publish.checkpoint import items_of, made_of, origin_of
from llama_align.publish.hub import Target
from llama_align.publish.licences import Origin, check_terms
from llama_align.publish.made import Made, RunFacts, joined
from llama_align.publish.programme import Programme
from llama_align.recipe.results import hand_on


def checkpoint(folder, licence=None, **made):
    """As little as a checkpoint may be: of a recipe of ours, or with the card and the licence of others."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    if made:
        Made(**made).write(folder)
    elif licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        (folder / "LICENSE").write_text(f"the text of {licence}")
    return folder


def test_an_average_has_the_stages_and_the_licence_of_what_it_is_made_of(tmp_path):
    base = checkpoint(tmp_path / "base", "apache-2.0")
    starts = []
    for name in ("sft", "dpo"):
        facts = RunFacts(command=f"python {name}.py")
        earlier = [{"stage": "pretrain", "command": "", "settings": {}}]
        made = {"stage": name, "facts": facts, "earlier": earlier, "origin": Origin.of_folder(base)}
        starts.append(str(checkpoint(tmp_path / name, **made)))
    average = checkpoint(tmp_path / "average")
    recipe.write_made(str(average), "average", starts, {"checkpoints": 2})
    made = made_of(average)
    assert (made.stage, made.base, made.facts.metrics) == ("average", ", ".join(starts), {"checkpoints": 2})
    assert [stage["stage"] for stage in made.earlier] == ["pretrain", "sft", "dpo"]
    items = {item.path: item for item in items_of(average, Target("me/average"), made)}
    assert items["LICENSE"].content == b"the text of apache-2.0"
    assert b"license: apache-2.0" in items["README.md"].content
    with pytest.raises(ValueError, match=r"licence: found mit, expected apache-2\.0"):
        items_of(average, Target("me/average", licence="mit"), made)


def test_what_is_made_under_several_licences_is_not_published(tmp_path):
    starts = [str(checkpoint(tmp_path / name, name)) for name in ("mit", "llama3.1")]
    average = checkpoint(tmp_path / "average")
    recipe.write_made(str(average), "average", starts, {})
    with pytest.raises(ValueError, match=r"licence: found llama3\.1, mit of what this was made from, expected one"):
        items_of(average, Target("me/Llama-x", licence="mit"), made_of(average))


def test_a_licence_that_is_known_wins_over_none_and_a_card_may_name_it_in_a_list():
    bare, known = Origin("a/bare"), Origin("a/known", {"license": ["mit"]})
    assert joined([([], None), ([], bare), ([], known)])[1] is known
    assert joined([([], None), ([], bare)])[1] is bare
    assert joined([([], None)]) == ([], None)
    assert check_terms(known, "me/x", None) == "mit"


def test_what_follows_the_rounds_of_a_programme_is_its_last_stage_and_a_choice_is_made_of_the_chosen(tmp_path):
    rows = [("sft", None, {}), ("dpo-1", 1, {}), ("reward-1", 1, {}), ("best", None, {}), ("evaluate", None, {})]
    paths = {name: tmp_path / f"{name}-0" for name, *_ in rows}
    for name, path in paths.items():
        checkpoint(path, **{"stage": name, "origin": Origin(name)}) if name != "evaluate" else path.mkdir()
        models = {"one": str(paths["sft"]), "two": str(paths["dpo-1"])} if name == "best" else {}
        (path / "config.yaml").write_text(json.dumps({"models": models}))
        (path / "metrics.json").write_text(json.dumps({"chosen": "two"}))
        (path / "step.json").write_text("{}")
    config = {"architectures": ["LlamaForSequenceClassification"]}
    (paths["reward-1"] / "config.json").write_text(json.dumps(config))
    Made(stage="reward", auto="AutoModelForSequenceClassification").write(paths["reward-1"])
    recipes = {"best": "choose", "evaluate": "evaluate", "sft": "sft", "dpo-1": "dpo", "reward-1": "reward"}
    steps = [
        {"name": name, "recipe": recipes[name], "directory": f"{name}-0", "status": "finished", "round": number}
        for name, number, _ in rows
    ]
    (tmp_path / "run.json").write_text(json.dumps({"name": "x", "steps": steps}))
    run = Programme(tmp_path)
    assert [stage.name for stage in run.stages] == ["sft", "reward-1", "dpo-1", "best"]
    assert run.revisions["main"] == "as best"
    best = run.made(run.last)
    assert [stage["stage"] for stage in best.earlier] == ["dpo-1"]
    assert best.origin.base_model == "dpo-1"


def test_another_form_hands_the_licence_on_and_a_card_that_was_out_of_reach_is_read_later(tmp_path, monkeypatch):
    source, output = checkpoint(tmp_path / "llama", "llama3.2"), checkpoint(tmp_path / "herd")
    hand_on(str(source), str(output), "convert")
    made = made_of(output)
    assert (made.stage, made.origin.licence) == ("convert", "llama3.2")
    with pytest.raises(ValueError, match="name that begins with Llama"):
        items_of(output, Target("me/herd"), made)
    bare = checkpoint(tmp_path / "bare")
    hand_on(str(bare), str(checkpoint(tmp_path / "other")), "convert")
    assert not (tmp_path / "other" / "recipe.json").exists()
    offline = Made(origin=Origin("meta/Llama-x"))
    monkeypatch.setattr(licences, "_card_on_hub", lambda name: {"license": "llama3.2"})
    assert origin_of(offline, Target("me/x")).licence == "llama3.2"
    known = Made(origin=Origin(None, {"license": "mit"}, "there"))
    assert origin_of(known, Target("me/x", base="a/base")) == Origin("a/base", {"license": "mit"}, "there")

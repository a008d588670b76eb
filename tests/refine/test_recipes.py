"""The two recipes from YAML-like options to files, with tiny models; killed half-way they leave the same bytes."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.data import Demonstration, Document, Preference, load_records, write_jsonl
from llama_align.recipe import engines
from llama_align.sampling import DialogSampler

from ..conftest import made_up_text
from ..docs.metric_names import assert_explained

RECIPES = Path(__file__).parents[2] / "recipes"
LEFT = ("decisions.jsonl", "metrics.json", "README.md")


@pytest.fixture
def made(tmp_path, tiny_config, tokenizer, monkeypatch):
    """Runs a recipe; `made.drawn` has the prompts of every call of a sampler."""
    for name, auto, more in (
        ("policy", AutoModelForCausalLM, {}),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        torch.manual_seed(1)
        auto.from_config(tiny_config(max_position_embeddings=512, **more)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    class Noted(DialogSampler):
        def __call__(self, prompts, *args, **more):
            run.drawn.append(len(prompts))
            return super().__call__(prompts, *args, **more)

    monkeypatch.setattr(engines, "DialogSampler", Noted)

    def run(name: str, **options):
        script = runpy.run_path(str(RECIPES / f"{name}.py"))
        kind = script[f"{name.title()}Arguments"]
        options = {"output_dir": str(tmp_path / "out"), "prompts_per_shard": 4, "max_new_tokens": 6} | options
        script["main"](kind(**options))
        return Path(options["output_dir"])

    run.drawn = []
    return run


@pytest.fixture
def demonstrations(tmp_path):
    rows = [
        Demonstration(
            [
                {"role": "user", "content": made_up_text(5, n)},
                {
                    "role": "assistant",
                    "content": made_up_text(4, n + 50) + "!!" * (n % 3 == 0) + " \U0001f600" * (n == 2),
                },
            ],
            "people",
        )
        for n in range(11)
    ]
    write_jsonl(tmp_path / "in.jsonl", [*rows, rows[4]])
    return str(tmp_path / "in.jsonl")


def refined(made, tmp_path, demonstrations, **options):
    listed = [
        {"rule": "clean", "exclamations": 0},
        {"rule": "quality", "by": ["reward", "model"], "top": 0.6},
        {"rule": "difficulty", "by": ["intentions"]},
        {"rule": "distinct", "similarity": 0.99},
    ]
    own = {"rules": listed, "reward_models": {"r": str(tmp_path / "reward")}, "model": str(tmp_path / "policy")}
    return made("refine", datasets=[{"path": demonstrations}], **own | options)


def test_records_out_are_records_in_and_every_one_is_accounted_for(made, tmp_path, demonstrations):
    pytest.importorskip("sklearn", reason="needs the extra 'curation'")
    out = refined(made, tmp_path, demonstrations, title="Of | people")
    kept = load_records([str(out / "demonstrations.jsonl")], "demonstration")[0]
    assert_explained(out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert [rule["rule"] for rule in metrics["rules"]] == ["clean", "quality", "difficulty", "distinct"]
    ins, outs = ([rule[key] for rule in metrics["rules"]] for key in ("rows_in", "rows_out"))
    assert (ins[0], ins[1:], outs[-1]) == (12, outs[:-1], len(kept))
    for rule in metrics["rules"]:
        assert rule["rows_in"] - sum(rule["dropped"].values()) == rule["rows_out"]
        assert rule["examples"].keys() == rule["dropped"].keys() | rule["changed"].keys()
    assert metrics["rules"][0]["changed"] == {"emoji": 1, "exclamation marks": 4}
    assert all("!" not in record.messages[1]["content"] for record in kept)
    decided = [json.loads(line) for line in (out / "decisions.jsonl").open()]
    assert len(decided) == 12
    assert sum(row["dropped"] is None for row in decided) == len(kept)
    assert {"row", "dropped", "reward", "quality"} <= decided[0].keys()
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["pretty_name"], front["configs"][0]["data_files"]) == ("Of | people", "demonstrations.jsonl")
    assert f"{len(kept)} records of the kind `demonstration` from 12" in card
    assert "# Of &#124; people" in card


def test_what_was_killed_goes_on_and_leaves_the_same_bytes(made, tmp_path, demonstrations):
    rules = [{"rule": "quality", "by": ["reward", "model"], "top": 0.5}]
    whole = refined(made, tmp_path, demonstrations, rules=rules)
    shards, scores = (sorted(whole.glob(pattern)) for pattern in ("shards/*/*.jsonl", "scores/*/*.jsonl"))
    assert (len(shards), len(scores)) == (3, 3)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for path in (shards[1], scores[2]):
        (cut / path.relative_to(whole)).unlink()
    (cut / "metrics.json").unlink()
    made.drawn.clear()
    refined(made, tmp_path, demonstrations, rules=rules, output_dir=str(cut))
    assert made.drawn == [4], "the shard that was missing, and no other"
    for name in ("demonstrations.jsonl", *LEFT):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_preferences_lose_their_worst_pairs(made, tmp_path):
    def pair(n):
        asked = [{"role": "user", "content": made_up_text(3, n)}]
        answers = made_up_text(2, n), made_up_text(3, -n - 1)
        return Preference(asked, *answers, "better", "safety", True, False, "a", 2, "people")

    rows = [pair(n) for n in range(8)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    own = {"rules": [{"rule": "worst_pairs", "drop": 0.25}], "reward_models": {"r": str(tmp_path / "reward")}}
    out = made("refine", kind="preference", datasets=[{"path": str(tmp_path / "pairs.jsonl")}], **own)
    kept = load_records([str(out / "preferences.jsonl")], "preference")[0]
    gaps = [json.loads(line)["gap"] for line in (out / "decisions.jsonl").open()]
    least = sorted(gaps)[2]
    assert kept == [row for row, gap in zip(rows, gaps, strict=True) if gap >= least]


def test_what_leaves_nothing_or_has_no_room_is_refused_by_name(made, tmp_path, demonstrations):
    with pytest.raises(recipe.RecipeError, match="kind: found 'document', expected one of demonstration, preference"):
        made("refine", kind="document", datasets=[demonstrations], rules=[{"rule": "clean"}])
    nothing = [{"rule": "quality", "by": ["model"], "scale": "code"}]
    with pytest.raises(recipe.RecipeError, match=r"found none left of 12 records after quality \(12 not of high qua"):
        refined(made, tmp_path, demonstrations, rules=nothing, reward_models={}, model=str(tmp_path / "policy"))
    long = tmp_path / "long.jsonl"
    said = [{"role": "user", "content": made_up_text(400, 0)}, {"role": "assistant", "content": "ba"}]
    write_jsonl(long, [Demonstration(said), Demonstration([{"role": "user", "content": "do"}, said[1]])])
    own = {"rules": [{"rule": "quality", "top": 0.9}], "reward_models": {"r": str(tmp_path / "reward")}}
    with pytest.raises(
        ValueError, match=r"reward_models, r: record 1 from data, .*found \d+ tokens, expected at most 511"
    ):
        made("refine", datasets=[str(long)], **own)
    out = made("refine", datasets=[str(long)], too_long="drop", **own)
    assert json.loads((out / "metrics.json").read_text())["rules"][0]["facts"]["without a reward"] == 1
    assert len(load_records([str(out / "demonstrations.jsonl")], "demonstration")[0]) == 1


def test_back_translation_leaves_demonstrations_and_goes_on(made, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl", [Document(made_up_text(6, n)) for n in range(5)])
    own = {"datasets": [str(tmp_path / "texts.jsonl")], "model": str(tmp_path / "policy"), "verify": "overlap"}
    own |= {"least": 0.0, "prompts": {"generate": "Say: <text>", "back": "Back: <text>"}, "answers": 6}
    own |= {"max_new_tokens": 40, "temperature": 2.0}
    whole = made("synthesise", **own)
    assert_explained(whole)
    kept = load_records([str(whole / "demonstrations.jsonl")], "demonstration")[0]
    assert all(record.messages[0]["content"].startswith("Say: ") for record in kept)
    first = {name: (whole / name).read_bytes() for name in ("demonstrations.jsonl", *LEFT)}
    next(whole.glob("shards/*/*.jsonl")).unlink()
    made.drawn.clear()
    made("synthesise", **own)
    assert len(made.drawn) == 1
    assert {name: (whole / name).read_bytes() for name in first} == first


WRONG = [
    ({"method": "magic"}, "method: found 'magic', expected one of back_translation, paraphrase, synonyms"),
    ({"method": "paraphrase", "least": 0.2}, "least: found 0.2 with method paraphrase, which does not read it"),
    ({"method": "synonyms", "model": "m"}, "model: found 'm' with method synonyms, which does not read it"),
    ({"synonyms": {"a": ["b"]}}, "synonyms: found .* with method back_translation"),
    ({"model": "m"}, "datasets: found none, expected some for method back_translation"),
    ({"datasets": [{"path": "a"}]}, "model: found none, expected some for method back_translation"),
    ({"method": "synonyms", "datasets": ["a"], "synonyms": {"a": ["a"]}}, "synonyms: found 'a', expected a word and"),
    ({"datasets": ["a"], "model": "m", "prompts": {"rewrite": "<text>"}}, "prompts: found 'rewrite', expected some of"),
    ({"datasets": ["a"], "model": "m", "prompts": {"verify": "<text>"}}, r"prompts, verify: found no <back> in it"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_an_option_that_the_method_does_not_read_is_refused(options, said, made):
    with pytest.raises(recipe.RecipeError, match=said):
        made("synthesise", **{"max_new_tokens": 256} | options)


def test_synonyms_need_no_model(made, demonstrations):
    word = load_records([demonstrations], "demonstration")[0][0].messages[0]["content"].split()[0].strip(",.")
    out = made(
        "synthesise", method="synonyms", datasets=[demonstrations], synonyms={word: ["other"]}, max_new_tokens=256
    )
    kept = load_records([str(out / "demonstrations.jsonl")], "demonstration")[0]
    assert kept
    assert all("other" in record.messages[0]["content"].casefold() for record in kept)
    assert made.drawn == []

"""recipes/annotate.py with people: a batch is drawn once, waits, and leaves what the other annotators leave."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_align.data import load_records
from llama_align.people.answers import Refused
from llama_align.people.batch import Batch
from llama_align.people.live import Live
from llama_align.recipe import RecipeError, WaitsForPeople, exit_code
from llama_align.sandbox import World, instructions
from llama_align.sandbox.write import prompt_record

from ..docs.metric_names import assert_explained
from .conftest import answer, fields

RECIPE = Path(__file__).parents[2] / "recipes" / "annotate.py"


@pytest.fixture
def run(tmp_path, tiny_config, tokenizer):
    """Runs the recipe on six prompts of the sandbox, two checkpoints and two temperatures."""
    records = [prompt_record(task) for task in instructions(World.generate(0), 0, 6, "rl")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(str(tmp_path / f"model-{seed}"))
        AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(models[-1])
        tokenizer.save_pretrained(models[-1])
    script = runpy.run_path(str(RECIPE))

    def call(**changes):
        options = {"models": models, "datasets": [str(tmp_path / "prompts.jsonl")], "max_new_tokens": 6, "answers": 2}
        options |= {"temperature": [0.7, 1.2], "annotator": "people", "round": 2}
        script["main"](script["AnnotateArguments"](output_dir=str(tmp_path / "out"), **options | changes))

    call.out = tmp_path / "out"
    return call


def test_a_batch_waits_and_ends_as_any_other_annotator(run, site):
    with pytest.raises(WaitsForPeople, match=r"waits for people: 0 of 12 done; llama-align people serve .*out"):
        run(overlap=1.0)
    assert exit_code(lambda: run(overlap=1.0)) == 79
    with pytest.raises(RecipeError, match="output_dir: found a batch made with other options"):
        run(overlap=0.5)
    drawn = Batch.read(run.out)
    for one in drawn.items.values():
        assert {side.model for side in one.answers} <= {"model-0", "model-1"}
        assert len({(side.model, side.temperature) for side in one.answers}) == 2, "from two sources"
    place = site(run.out)
    for name in ("ada", "ben"):
        client = place.person(name)
        for _ in range(6):
            answer(client, 2, safe_left="1", safe_right="1")
    assert json.loads((run.out / "waits.json").read_text()) == {"done": 12, "of": 12, "by": "people"}
    run(overlap=1.0)
    (records, _) = load_records([str(run.out / "preferences.jsonl")], "preference")
    assert (len(records), {one.round for one in records}) == (12, {2})
    assert_explained(run.out)
    numbers = json.loads((run.out / "metrics.json").read_text())
    assert (numbers["preferences"], numbers["grades"], numbers["people"]) == (12, {"better": 12}, 2)
    assert not (run.out / "waits.json").exists()
    assert "not open to you any more" in place.person("ada").post("/undo").text


def test_prompts_of_their_own_are_answered_by_the_models(run, site):
    with pytest.raises(WaitsForPeople, match="0 of 3 done"):
        run(datasets=[], own_prompts={"helpfulness": 2, "safety": 1}, turns=2)
    settings = Batch.read(run.out).settings
    place, live = site(run.out), Live(settings)
    place.live.draw = live.draw
    ada = place.person("ada")
    form = fields(ada.get("/").text)
    assert ada.post("/write", form | {"text": "bado kilu?"}).status == 303
    page = ada.get("/").text
    assert 'action="/answer"' in page
    assert live.draw([{"role": "user", "content": "bado kilu?"}], "k") == live.draw(
        [{"role": "user", "content": "bado kilu?"}], "k"
    )
    one, other = live.draw([{"role": "user", "content": "bado kilu?"}], "k")
    assert (one["model"], one["temperature"]) != (other["model"], other["temperature"])
    with pytest.raises(Refused, match="too long for the models"):
        live.draw([{"role": "user", "content": "bado " * 2000}], "k")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise": 0.5}, "noise: found 0.5 with annotator: people, expected none of people"),
        ({"reward_models": {"r": "x"}}, "reward_models: found .* with annotator: people"),
        ({"annotator": "sandbox", "overlap": 0.5}, "overlap: found 0.5 with annotator: sandbox, expected it for"),
        ({"annotator": "reward", "turns": 2}, "turns: found 2 with annotator: reward"),
        ({"own_prompts": {"humour": 1}}, "own_prompts: found 'humour', expected helpfulness or safety"),
        (
            {"overlap": 0.6, "second_look": 0.5},
            "second_look: found 0.5 beside overlap 0.6, expected at most 1 together",
        ),
        ({"gold_share": 0.1}, "gold_share: found it without gold, expected both or neither"),
        ({"gold": [{"path": "x"}]}, "gold_share: found gold without it"),
        ({"guidelines": {"humour": "x"}}, "guidelines: found 'humour', expected helpfulness or safety"),
        ({"guidelines": {"safety": "none.md"}}, "guidelines.safety: found no text in 'none.md'"),
    ],
)
def test_options_that_people_do_not_read(run, changes, said):
    with pytest.raises(RecipeError, match=said):
        run(**changes)
    assert not (run.out / "people").exists()

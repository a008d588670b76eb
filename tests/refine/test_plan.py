"""Refining as a step of a plan: inputs by reference, made anew with what they are made from."""

import yaml

from llama_align.rounds import Plan

from .test_recipes import RECIPES


def test_rules_and_models_of_a_step_refer_to_other_steps(tmp_path):
    rules = [{"rule": "quality", "drop": False}, {"rule": "best", "count": 10}]
    refined = {
        "datasets": [{"path": "{sandbox}/demonstrations.jsonl"}],
        "rules": rules,
        "reward_models": {"quality": "{reward}"},
    }
    steps = [
        {"name": "sandbox", "recipe": "sandbox", "set": {"documents": 10}},
        {"name": "reward", "recipe": "reward", "set": {"model_name_or_path": "{sandbox}"}},
        {"name": "refined", "recipe": "refine", "set": refined},
        {
            "name": "more",
            "recipe": "synthesise",
            "set": {"datasets": ["{refined}/demonstrations.jsonl"], "prompts": {"rewrite": "Say: <text>"}},
        },
    ]

    def digests(**changes):
        plan = {"name": "p", "steps": [dict(step, set=step["set"] | changes.get(step["name"], {})) for step in steps]}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
        found = Plan.load(tmp_path / "plan.yaml", RECIPES)
        assert found.inputs("refined") == ["reward", "sandbox"]
        assert found.inputs("more") == ["refined"]
        return {name: identity.whole for name, identity in found.identities().items()}

    first = digests()
    assert digests() == first
    fewer = digests(refined={"rules": [rules[0], rules[1] | {"count": 5}]})
    assert {name for name in first if fewer[name] != first[name]} == {"refined", "more"}
    assert digests(sandbox={"documents": 11})["more"] != first["more"]

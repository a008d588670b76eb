"""`llama-align chat` from a pipe, and who answers for a folder."""

import io
import json

import pytest
import yaml
from transformers.utils import logging

from llama_align.cli import main
from llama_align.recipe import RecipeError
from llama_align.talk.found import find

from ..recipe.conftest import family

__all__ = ["family"]


@pytest.fixture
def chat(monkeypatch, capsys):
    def call(lines: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(["chat", *arguments, "--max-new-tokens", "6", "--seed", "1"])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def run(tmp_path, family):
    """A run of rounds with a policy, a later one that is not finished, and the options of a step that scores."""
    steps = []
    for name, status, copied in (
        ("sft", "finished", "whole"),
        ("reward", "finished", "reward_whole"),
        ("best", "finished", "base"),
        ("evaluate", "finished", None),
        ("dpo", "running", "whole"),
    ):
        folder = tmp_path / f"{name}-0"
        folder.symlink_to(family[copied]) if copied else folder.mkdir()
        steps.append({"name": name, "recipe": name, "directory": folder.name, "status": status})
    (tmp_path / "evaluate-0" / "config.yaml").write_text(
        yaml.safe_dump({"reward_models": {"helpfulness": "elsewhere/reward-0"}})
    )
    (tmp_path / "run.json").write_text(json.dumps({"name": "run", "steps": steps}))
    return tmp_path


def test_a_run_answers_by_its_last_finished_model_and_brings_its_reward_models(run, family):
    found = find(str(run))
    assert (found.path, found.name) == (str(run / "best-0"), "best")
    assert found.reward_models == {"helpfulness": str(run / "reward-0")}
    assert find(family["whole"]).path == family["whole"]
    assert find("some/name").path == "some/name"
    (run / "run.json").write_text(
        json.dumps({"name": "run", "steps": [{"name": "a", "directory": "a", "status": "waiting"}]})
    )
    with pytest.raises(RecipeError, match="found no finished step that made a language model"):
        find(str(run))
    (run / "run.json").write_text("[]")
    with pytest.raises(RecipeError, match="found no list of steps"):
        find(str(run))


def test_lines_of_a_pipe_are_turns(chat, run, family):
    said = logging.get_verbosity(), logging.is_progress_bar_enabled()
    code, out, error = chat("bado\n\n/temperature 0\nkilu\n/quit\nnot said\n", str(run), "--against", family["adapter"])
    assert (code, error) == (0, "")
    assert out.count("a: best\n") == out.count("b: adapter\n") == 2
    assert out.count("[helpfulness ") == 4
    assert "\x1b" not in out
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == said, "as it was for others in the process"
    again = chat("bado\n\n/temperature 0\nkilu\n", str(run), "--against", family["adapter"])
    first = out.index("a: best")  # behind the dialect of each, which is said once in a process
    assert again[1][again[1].index("a: best") :] == out[first:], "a seed and the lines are all it depends on"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all/here"], "nowhere/at/all/here"),
        (["{reward_whole}"], "expected"),
        (["{whole}", "--reward-models", "a={whole}"], "expected"),
        (["{whole}", "--reward-models", "a={reward_whole}", "a={reward_whole}"], "reward_models: found a name twice"),
        (["{whole}", "--temperature", "-1"], "temperature must be a number at least 0"),
        (["{whole}", "--dtype", "int8"], "dtype: found 'int8'"),
    ],
)
def test_a_mistake_is_one_line(chat, family, arguments, said):
    code, _, error = chat("", *(argument.format(**family) for argument in arguments))
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1

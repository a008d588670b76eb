"""The metric modules through the `evaluate` library, with every socket closed."""

import doctest
import os
import socket
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import evaluate
import pytest

from llama_align import metrics
from llama_align.metrics import functional

INPUTS = {
    "answer_endings": {"answers": ["a b", "c c c", ""], "finished": [1, 0, 1]},
    "exact_score": {"verdicts": [1, 0, 1], "families": ["a", "b", "a"]},
    "paired_difference": {"first": [1, 0, 0], "second": [1, 1, 0]},
    "refusal_rate": {"unsafe": [1, 0, 1], "refused": [1, 1, 0], "violation": [0, 0, 1]},
    "reward_accuracy": {"chosen": [1.0, 2.0, 0.5], "rejected": [0.0, 3.0, 0.5], "grades": ["better"] * 3},
    "token_perplexity": {"nll": [1.5, 2.25, 0.1], "tokens": [3, 4, 1]},
    "win_rate": {"model": [1.0, 0.0, 2.0], "baseline": [0.0, 0.0, 3.0]},
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(params=metrics.NAMES)
def name(request):
    return request.param


def test_every_folder_is_a_metric():
    folders = {path.parent.name for path in Path(metrics.__file__).parent.glob("*/*.py")}
    assert folders == set(metrics.NAMES) == set(INPUTS)


def test_modules_agree_with_their_functions(name):
    expected = getattr(functional, name)(**INPUTS[name])
    module = metrics.load(name)
    assert module.compute(**INPUTS[name]) == expected
    for split in (slice(0, 1), slice(1, 3)):
        module.add_batch(**{field: values[split] for field, values in INPUTS[name].items()})
    assert module.compute() == expected
    assert module.name == name
    for text in (module.description, module.citation, module.inputs_description):
        assert text.strip()


def test_the_described_example_is_true(name):
    module = metrics.load(name)
    example = doctest.DocTestParser().get_doctest(module.inputs_description, {"metric": module}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_evaluate_loads_the_folder(name, tmp_path):
    module = evaluate.load(str(Path(metrics.__file__).parent / name), cache_dir=str(tmp_path))
    assert module.compute(**INPUTS[name]) == getattr(functional, name)(**INPUTS[name])


def test_empty_input_names_the_field(name):
    first = next(iter(INPUTS[name]))
    with pytest.raises(ValueError, match=f"{first}: empty, expected"):
        metrics.load(name).compute(**{field: [] for field in INPUTS[name]})


def test_options_reach_the_function():
    module = metrics.load("reward_accuracy")
    result = module.compute(**INPUTS["reward_accuracy"], chosen_lengths=[1, 2, 3], rejected_lengths=[3, 2, 1], bins=2)
    assert result["longer_wins"] == 0.5


def test_fractions_are_refused_not_cut():
    with pytest.raises(ValueError, match=r"verdicts\[0\]: found 0.5"):
        metrics.load("exact_score").compute(verdicts=[0.5], families=["a"])


def test_unknown_name():
    with pytest.raises(ValueError, match="name: found 'bleu', expected one of answer_endings, exact_score"):
        metrics.load("bleu")


def test_a_script_beside_an_evaluate_py_finds_the_library_on_a_path_left_as_it_was(tmp_path):
    # python, and accelerate launch with it, puts the folder of a recipe first
    (tmp_path / "evaluate.py").write_text("raise SystemExit('taken for the library')")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "before = list(sys.path)\n"
        "from llama_align import metrics\n"
        "assert sys.path == before and 'evaluate' not in sys.modules\n"
        "print(metrics.load('win_rate').compute(model=[1.0], baseline=[0.0])['rate'])\n"
        "assert sys.path == before\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(metrics.__file__).parents[2])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "1.0\n"), ended.stderr


def test_no_recipe_but_evaluate_has_the_name_of_something_installed():
    recipes = {path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py")}
    assert recipes & set(packages_distributions()) <= {"evaluate"}

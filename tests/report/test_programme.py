"""The page of a programme: what every round chose, dropped and warned of, and how rounds compare."""

import json
import re
from pathlib import Path

import pytest

from llama_align.metrics.functional import exact_score, refusal_rate
from llama_align.report import write_report
from llama_align.report.inputs import read_run
from llama_align.report.programme import newest, programme

ALARM = "over-optimised: <b>ppo</b> pleases"


@pytest.fixture
def run(tmp_path) -> Path:
    """Two rounds; the second's PPO got worse and was not carried on, and the third has not begun."""
    rows = [{"name": "sft", "recipe": "sft", "directory": "sft", "seconds": 5.0, "status": "finished"}]
    for number in (1, 2, 3):
        for of, recipe in (
            ("annotate", "annotate"),
            ("reward", "reward"),
            ("sampling", "rejection_sampling"),
            ("best", "choose"),
        ):
            row = {"name": f"{of}-{number}", "recipe": recipe, "directory": f"{of}-{number}", "of": of, "round": number}
            begun = number < 3
            row |= {"seconds": 10.0 * number, "status": "finished"} if begun else {"seconds": None, "status": "waiting"}
            rows.append(row | ({"alarms": [ALARM]} if row["name"] == "best-2" else {}))
    rows.append(
        {"name": "evaluate", "recipe": "evaluate", "directory": "evaluate", "seconds": 3.0, "status": "finished"}
    )
    write(tmp_path / "run.json", {"name": "programme", "seed": 0, "steps": rows})
    for number, (gain, chosen) in {1: (0.2, "ppo"), 2: (-0.1, "kept")}.items():
        between = {"on": "kept", "difference": gain, "low": gain - 0.05, "high": gain + 0.05}
        ppo = {"name": "ppo", "score": 0.5 + gain, "low": 0.4, "high": 0.8, "gain": between}
        ppo |= {"reward": {"mean": 0.6, "low": 0.55, "high": 0.65}, "kl": {"mean": 1.25, "low": 1.0, "high": 1.5}}
        ppo |= {"heldout": {"mean": 0.4, "low": 0.3, "high": 0.45}}
        found = [{"name": "kept", "score": 0.5, "low": 0.4, "high": 0.6}, ppo]
        write(tmp_path / f"best-{number}" / "metrics.json", {"chosen": chosen, "by": "exact", "candidates": found})
        accuracy = {"accuracy": 0.6 + number / 10, "low": 0.6, "high": 0.9}
        newest = {"after": dict(accuracy)} | (
            {"before": {"accuracy": 0.55, "low": 0.5, "high": 0.6}} if number > 1 else {}
        )
        accuracy |= {"newest": newest | {"pairs": 40}}
        write(tmp_path / f"reward-{number}" / "metrics.json", accuracy)
        (tmp_path / f"reward-{number}" / "log.jsonl").write_text(
            f'{{"step": 1, "loss": {number}, "num_tokens": 500}}\n{{"step": 2, "num_tokens": 1000}}\n'
        )
        safety = {"chosen_only": 2, "both": 5, "neither": 3, "rejected_only": 0, "unsaid": 10}
        batch = {"preferences": 20, "left_out": {"ties": 4}, "agreement": 0.8, "right": 0.75, "safety": safety}
        write(tmp_path / f"annotate-{number}" / "metrics.json", batch)
        shares = {"1": 10} if number == 1 else {"1": 4, "2": 6}
        write(tmp_path / f"sampling-{number}" / "metrics.json", {"chosen_by_round": shares})
    evaluation(tmp_path / "evaluate")
    return tmp_path


def write(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def evaluation(folder: Path) -> None:
    rows = []
    for number in range(3):
        row = {"row": f"round-{number}", "n": 4, "score": exact_score([1] * number + [0] * (4 - number))}
        rows.append(
            row | {"safety": refusal_rate([1, 1, 0], [1, 0, 0], [0, 1, 0]), "perplexity": {"value": 5.0 + number}}
        )
        write(folder / f"round-{number}.json", {"rewards": {"r": [number, number, 0.5, 0.5]}})
    write(folder / "metrics.json", {"rows": rows, "decoding": {"temperature": 1.0}})


def test_the_choice_of_every_round_and_what_was_left_behind(run):
    found = programme(read_run(run))
    assert found.choices.names == ["round 1: kept", "round 1: ppo", "round 2: kept", "round 2: ppo"]
    cells = dict(zip(found.choices.names, found.choices.cells, strict=True))
    assert [cell.text for cell in cells["round 2: ppo"]] == ["40.0", "-10.0", "60.0", "40.0", "1.25", "no"]
    assert cells["round 2: ppo"][1].mark == "worse"
    assert [cells[f"round {n}"][-1].text for n in ("1: ppo", "2: kept")] == ["yes", "yes"]
    assert found.dropped == [
        "round 2: ppo is 10.0 points [5.0, 15.0] worse and nothing it made was better than what it began with; kept is "
        "carried on"
    ]
    assert found.alarms == [f"best-2: {ALARM}"]


def test_rounds_against_each_other_and_their_seconds(run):
    found = programme(read_run(run))
    ((step, wins),) = found.wins
    assert (step, wins.names) == ("evaluate", ["round-0", "round-1", "round-2"])
    assert [[cell.text for cell in row] for row in wins.cells] == [
        ["", "25.0", "25.0"],
        ["75.0", "", "25.0"],
        ["75.0", "75.0", ""],
    ]
    assert found.seconds.names == ["annotate", "reward", "sampling", "best", "all"]
    assert [cell.text for cell in found.seconds.cells[-1]] == ["40", "80", "", "120"]
    assert [picture.title for picture in found.pictures] == [
        "Score, temperature 1",
        "Safety, temperature 1",
        "Perplexity, temperature 1",
        "Reward models, held-out pairs",
        "Reward models, the newest batch",
        "Reward models against KL",
        "Held-out judges against KL",
        "Exact score against KL",
        "Which round the answers chosen are of, sampling",
    ]


def test_batches_tokens_and_what_it_cost(run):
    found = programme(read_run(run), price=36.0)
    assert found.batches.names == ["annotate-1", "annotate-2"]
    assert [cell.text for cell in found.batches.cells[0]] == ["20", "4", "80.0", "75.0", "20.0", "50.0", "30.0"]
    assert found.batches.cells[0][1].detail == "4 ties"
    rows = dict(zip(found.costs.names, found.costs.cells, strict=True))
    assert [cell.text for cell in rows["reward"]] == ["2", "2,000", "0.008", "0.30"]
    assert [cell.text for cell in rows["all"]] == ["10", "2,000", "0.036", "1.28"]
    assert found.costs.headings[-1] == "Cost"
    assert "Cost" not in programme(read_run(run)).costs.headings


def test_of_steps_that_are_repeated_the_last_that_left_something_is_shown(run):
    shown = [step.name for step in newest(read_run(run).steps)]
    assert shown == ["sft", "annotate-2", "reward-2", "sampling-2", "best-2", "evaluate"]


def test_the_page_says_it_all_and_takes_no_text_for_markup(run):
    page = write_report(run, run / "report.html").read_text()
    assert write_report(run, run / "again.html").read_text() == page
    assert "over-optimised: &lt;b&gt;ppo&lt;/b&gt; pleases" in page
    assert "1 alarm:" in page
    for heading in ("Rounds", "Learning curves", "Steps"):
        assert f"<h2>{heading}</h2>" in page
    assert len(re.findall(r"<h2>Choice of a model", page)) == 0, "the rounds have a table of their own"
    assert "Loss, reward-2" in page
    assert "Loss, reward-1" not in page


def test_a_run_without_rounds_is_no_programme(run):
    content = json.loads((run / "run.json").read_text())
    content["steps"] = content["steps"][:1]
    write(run / "run.json", content)
    assert programme(read_run(run)) is None


def test_benchmarks_of_rounds_are_drawn_against_them(run, tmp_path):
    written = json.loads((run / "run.json").read_text())
    step = {"name": "benchmark", "recipe": "benchmark", "directory": "b", "seconds": 3.0, "status": "finished"}
    write(run / "run.json", written | {"steps": [*written["steps"], step]})
    task = {"metric": "acc", "shots": 0, "stderr": 0.02}
    checkpoints = [
        {
            "name": name,
            "tasks": {f"herd_{i}": task | {"value": place / 10, "low": 0.0, "high": 0.9} for i in range(8)},
            "groups": {"commonsense": {"title": "Commonsense", "value": place / 10, "low": 0.1, "high": 0.5}},
        }
        for place, name in enumerate(["pretrain", "round-0", "round-1"])
    ]
    write(run / "b" / "metrics.json", {"checkpoints": checkpoints})
    pictures = {picture.title: picture.svg for picture in programme(read_run(run)).pictures}
    assert {title for title in pictures if "enchmark" in title} == {
        "Benchmarks by group, benchmark",
        "Benchmarks by task, benchmark",
    }
    tasks = pictures["Benchmarks by task, benchmark"]
    assert all(re.search(rf">{i}</text>", tasks) for i in range(8))  # none is left out for want of a colour
    assert len(re.findall(r"stroke-dasharray: [^;n]", tasks)) > len(
        re.findall(r"stroke-dasharray: [^;n]", pictures["Benchmarks by group, benchmark"])
    )

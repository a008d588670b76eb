"""The HTML report of a made-up run: what it shows, what it leaves out, and that hostile text stays text."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from llama_align.metrics.functional import paired_difference, refusal_rate
from llama_align.report import figures, write_report
from llama_align.report.labels import curve_place
from tests.conftest import CHROMIUM

from .conftest import HOSTILE, ROWS, make_run


class Page(HTMLParser):
    """Collects tags with their attributes, headings and visible text."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "wbr"})

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.headings, self.text, self.styles = [], [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> was never opened"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "h2" in self.open:
            self.headings.append(data)
        if "style" in self.open:
            self.styles.append(data)


def report(run_dir, **options) -> Page:
    return Page(write_report(run_dir, run_dir.parent / "out" / "report.html", **options).read_text("utf-8"))


def edit(path, change):
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture
def judged(run_dir):
    """The run with nothing but its evaluation to draw, which is soon drawn."""
    for name in ("sft", "reward-helpfulness", "rejection", "ppo"):
        shutil.rmtree(run_dir / f"{name}-0a1b")
    return run_dir


def test_all_sections_in_order(run_dir):
    assert report(run_dir).headings == [
        "ppo <b>: evaluate",
        "What happened",
        "Learning curves",
        "Rewards before and after",
        "Reward models",
        "Rejection sampling",
        "KL against reward",
        "Sample dialogs",
        "Steps",
        "Configuration",
    ]


def test_numbers_of_the_evaluation_are_shown(run_dir):
    page = report(run_dir, title="My run")
    metrics = json.loads((run_dir / "evaluate-0a1b" / "metrics.json").read_text("utf-8"))
    for row in metrics["rows"]:
        assert row["row"] in page.text
        assert f"{100 * row['score']['mean']:.1f}" in page.text
        assert f"{100 * row['safety']['violation_rate']:.1f}" in page.text
    for difference in metrics["differences"]:
        assert f"{100 * difference['difference']:+.1f}" in page.text
    assert "My run" in page.text
    assert "1 h 12 min" in page.text


def test_hostile_text_stays_text(run_dir):
    page = report(run_dir)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "img", "iframe", "link", "object"} & set(tags)
    assert "b" not in tags  # that is in a row's name
    assert page.text.count("<script>alert('x')</script>") >= 1 + 1 + len(ROWS) + 1  # title, prompt, answers, step
    assert len(page.styles) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_nothing_is_loaded_from_outside(run_dir):
    page = report(run_dir)
    for _, attrs in page.tags:
        for name, value in attrs.items():
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                assert value.startswith(("#", "data:"))
            assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", value or ""))
    assert "url(" not in page.styles[0]
    assert "@import" not in page.styles[0]


def test_references_inside_the_pictures_resolve_to_one_id(run_dir):
    page = report(run_dir)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = {value for _, attrs in page.tags for v in attrs.values() for value in re.findall(r"#([mp][0-9a-f]{10})", v)}
    assert used
    assert used <= set(ids)


def test_pictures_use_only_the_colours_of_the_page(run_dir):
    page = report(run_dir)
    for tag, attrs in page.tags:
        if tag in ("path", "use", "text", "line", "rect"):
            assert not re.search(r"(fill|stroke): (?!none|var\(--)", attrs.get("style", ""))


def test_two_writes_are_identical_wherever_the_run_lies(tmp_path):
    import matplotlib as mpl

    first = write_report(make_run(tmp_path / "a"), tmp_path / "first.html").read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):  # a reader's own style must not leak in
        second = write_report(make_run(tmp_path / "elsewhere" / "b"), tmp_path / "second.html").read_bytes()
    assert first == second
    assert str(tmp_path).encode() not in first
    assert sorted(path.name for path in tmp_path.glob(".*")) == []  # nothing half-written is left


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("evaluate-0a1b", {"ppo <b>: evaluate", "What happened", "Rewards before and after", "Sample dialogs"}),
        ("evaluate-0a1b/sft.json", set()),
        ("evaluate-0a1b/samples_sft.jsonl", set()),
        ("reward-helpfulness-0a1b/metrics.json", {"Reward models"}),
        ("rejection-0a1b/metrics.json", {"Rejection sampling"}),
        ("ppo-0a1b/log.jsonl", {"KL against reward"}),
        ("sft-0a1b", set()),
    ],
)
def test_missing_pieces_are_left_out(run_dir, missing, gone):
    before = report(run_dir).headings
    path = run_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert report(run_dir).headings == [heading for heading in before if heading not in gone]


def test_a_run_of_nothing(tmp_path):
    (tmp_path / "run.json").write_text('{"steps": []}')
    page = report(tmp_path)
    assert page.headings == []
    assert tmp_path.name in page.text


def test_learning_curves_group_what_was_logged(run_dir):
    labels = [attrs["aria-label"] for tag, attrs in report(run_dir).tags if tag == "svg"]
    assert [label.removesuffix(", ppo") for label in labels if label.endswith(", ppo")] == [
        "Loss",
        "Reward",
        "KL to the reference",
        "Rewards by model",
        "Entropy",
        "Objective",
        "KL against reward",
    ]


def test_keys_nobody_named_have_a_panel_and_rates_come_after_results(run_dir):
    shutil.rmtree(run_dir / "evaluate-0a1b")
    log = run_dir / "sft-0a1b" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    odd = {"odd_key/of_mine": 1.0, "state": "warming up"}
    log.write_text("".join(json.dumps(row | odd) + "\n" for row in rows), "utf-8")
    text = write_report(run_dir, run_dir / "report.html").read_text("utf-8")
    labels = re.findall(r'aria-label="([^"]*), sft"', text)
    assert labels == ["Loss", "Learning rate", "Odd key"]
    assert "<summary>Learning rate, Odd key</summary>" in text
    for raw in ("learning_rate", "eval_loss", "odd_key", "train_runtime"):
        assert raw not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)


def test_names_instead_of_raw_keys():
    assert curve_place("eval_loss") == ("Loss", "held out")
    assert curve_place("accuracy/slightly_better") == ("Accuracy by grade", "slightly better")
    assert curve_place("rewards/helpfulness") == ("Rewards by model", "helpfulness")
    assert curve_place("rewards/margins") == ("Margin", "training")
    assert curve_place("eval_new/of_mine") == ("New", "of mine, held out")
    assert [curve_place(key) for key in ("step", "epoch", "train_runtime")] == [None] * 3


def test_best_of_k_by_temperature_and_under_another_judge(run_dir):
    page = report(run_dir)
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert [label for label in labels if "rejection" in label] == [
        "Temperature search, rejection",
        "Sampling, rejection",
        "Sampling, rejection, heldout/exact_judge",
    ]
    assert "Sampling: exact judge of the answer chosen" in page.text
    edit(run_dir / "rejection-0a1b" / "metrics.json", lambda metrics: metrics["best_of_k"][0].pop("median"))
    with pytest.raises(ValueError, match=r"rejection-0a1b/metrics.json, field 'median': found nothing"):
        report(run_dir)


def test_a_count_called_rows_is_no_evaluation(run_dir):
    (run_dir / "sft-0a1b" / "metrics.json").write_text('{"rows": 1200}')
    assert report(run_dir).headings[1] == "What happened"


def test_configurations_are_shown_without_the_place_of_the_run(run_dir):
    page = report(run_dir)
    assert page.text.count("learning_rate: 2.0e-05") == 5
    assert "output_dir: ./sft-0a1b" in page.text
    assert str(run_dir) not in page.text


def test_sparse_rows(run_dir):
    def strip(metrics):
        metrics["rows"] = [{"row": "only", "score": {"mean": 0.5}, "safety": {"violation_rate": None}}]
        del metrics["differences"]

    edit(run_dir / "evaluate-0a1b" / "metrics.json", strip)
    page = report(run_dir)
    assert "Violations %" not in page.text
    assert "50.0" in page.text


def test_dialogs_show_the_same_twelve_prompts_for_every_row(run_dir):
    page = report(run_dir)
    assert sum(tag == "article" for tag, _ in page.tags) == 12
    for row in ROWS:
        assert page.text.count(f"says {row}.") == 12


def test_two_evaluations_have_a_section_each(run_dir):
    shutil.copytree(run_dir / "evaluate-0a1b", run_dir / "again")
    edit(run_dir / "run.json", lambda run: run["steps"].append({"name": "evaluate-2", "directory": "again"}))
    headings = report(run_dir).headings
    for heading in ("What happened", "Sample dialogs"):
        assert [h for h in headings if h.startswith(heading)] == [f"{heading}: evaluate", f"{heading}: evaluate-2"]
    test_references_inside_the_pictures_resolve_to_one_id(run_dir)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", r"run\.json: found text that is not JSON"),
        ("run.json", '{"steps": 3}', r"run\.json, field 'steps': found 3 \(int\), expected a list of objects"),
        (
            "run.json",
            '{"steps": [{"name": "a"}]}',
            r"run\.json, step 1, field 'directory': found nothing, expected text",
        ),
        ("sft-0a1b/log.jsonl", '{"step": 1}\n{"st', r"log\.jsonl, line 2: found text that ends with"),
        (
            "sft-0a1b/log.jsonl",
            '{"step": 1, "loss": "high"}',
            r"log\.jsonl, field 'loss': found 'high', expected a number",
        ),
        ("sft-0a1b/metrics.json", "[]", r"metrics\.json: found an empty list, expected a JSON object"),
        ("evaluate-0a1b/metrics.json", '{"rows": [{}]}', r"metrics\.json, field 'row': found nothing, expected text"),
        ("evaluate-0a1b/metrics.json", '{"rows": [{"row": "../x"}]}', r"metrics\.json, field 'row': found '../x'"),
        (
            "evaluate-0a1b/metrics.json",
            '{"rows": [{"row": "a", "score": 1}]}',
            r"metrics\.json, field 'score': found 1",
        ),
        ("evaluate-0a1b/sft.json", '{"rewards": {"safety": ["x"]}}', r"sft\.json, field 'safety': found a list of 1"),
        (
            "evaluate-0a1b/rs-1.json",
            '{"score": {"items": [0.5]}}',
            r"rs-1\.json, field 'score.items': .* list of 0 and 1",
        ),
        ("evaluate-0a1b/samples_sft.jsonl", "{}", r"samples_sft\.jsonl, line 1, field 'prompt': found nothing"),
        ("reward-helpfulness-0a1b/metrics.json", '{"by_grade": {"better": {}}}', r"by_grade.better, field 'accuracy'"),
    ],
)
def test_broken_files_are_named(run_dir, file, text, message):
    (run_dir / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        report(run_dir)


def test_no_run_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run\.json: not found, expected the run\.json that the round manager"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_hostile_text_is_hostile():
    assert "</style>" in HOSTILE
    assert "<script>" in HOSTILE


def test_a_long_curve_is_smoothed_with_the_one_logged_behind_it():
    noisy = [10.0] + [(-1.0) ** i for i in range(1, 64)]
    long = figures.curves("long", {"training": (range(64), noisy)})
    short = figures.curves("short", {"training": (range(9), noisy[:9])})
    schedule = figures.curves("rate", {"rate": (range(64), noisy)}, measured=False)
    assert [svg.count("stroke-opacity: 0.35") for svg in (long, short, schedule)] == [1, 0, 0]
    smooth = figures._smoothed(np.array(noisy))
    assert smooth[0] == 10.0  # the start stays
    assert max(abs(smooth[5:])) < 0.5


def test_legends_stand_beside_the_curves():
    svg = figures.curves("two", {"training": (range(9), range(9)), "held out": (range(9), range(9, 0, -1))})
    curves = [path for path in re.findall(r'd="(M[^"]*)"', svg) if path.count("L") == 8]
    right = max(float(x) for path in curves for x in re.findall(r"[ML] ([\d.]+) ", path))
    for name in ("training", "held out"):
        (place,) = re.findall(r'x="([\d.]+)"[^>]*>' + name, svg)
        assert float(place) > right


def test_repeated_runs_have_one_colour_and_one_name_and_panels_stand_beside_each_other():
    first, second = [[0, 1.0], [1, 3.0], [2, math.nan]], [[0, 2.0], [1, 4.0]]
    panel = figures.repeated("loss", {"healthy": [first, second], "ill": [second]})
    assert [panel.count(f">{name}<") for name in ("healthy", "ill")] == [1, 1]
    lines = re.findall(r'd="(M[^"]*)"[^>]*stroke: (var\(--c\d\))', panel.replace("\n", ""))
    curves = [colour for path, colour in lines if path.count("L") == 1]
    assert [curves.count(f"var(--c{n})") >= least for n, least in ((0, 2), (1, 1))] == [True, True]
    other = figures.repeated("accuracy", {"healthy": [first], "ill": []})
    sheet = figures.sheet([("loss", panel), ("accuracy", other)])
    ids = re.findall(r'id="([^"]*)"', sheet)
    assert len(ids) == len(set(ids))
    assert re.findall(r'<svg x="([\d.]+)" y="18" width="([\d.]+)"', sheet) == [("0", "216"), ("226", "216")]
    assert [sheet.count(f">{title}</text>") for title in ("loss", "accuracy")] == [1, 1]


@pytest.mark.parametrize(
    ("decoding", "config", "shown"),
    [
        ({"temperature": 0.0, "top_p": 1.0}, "temperature: 1.0", "ppo <b>: greedy answers"),
        ({"temperature": 0.7, "top_p": 0.9}, "", "ppo <b>: answers drawn at temperature 0.7, top-p 0.9"),
        (None, "temperature: 1.0", "ppo <b>: answers drawn at temperature 1"),
        (None, "seed: 1", "ppo <b>: evaluate"),
    ],
)
def test_tiles_name_the_decoding_they_show(judged, decoding, config, shown):
    folder = judged / "evaluate-0a1b"
    (folder / "config.yaml").write_text(config)
    edit(folder / "metrics.json", lambda metrics: metrics.update(decoding=decoding))
    page = report(judged)
    assert shown in page.headings
    assert ("Greedy answers." in page.text) == ("greedy" in shown)


def test_a_stage_worse_than_an_earlier_one_is_said_at_the_top(judged):
    folder = judged / "evaluate-0a1b"
    better = [1] * 180 + [0] * 60
    worse = [1] * 150 + [0] * 90
    for name, items in (("sft", better), ("rs-1", better), ("ppo <b>", worse)):
        edit(folder / f"{name}.json", lambda row, items=items: row["score"].update(items=items))

    def change(metrics):
        metrics["differences"] = []  # all from the items, also of stages that do not follow each other
        for row, refused in zip(metrics["rows"], (0, 0, 60, 0), strict=True):
            row["safety"] = refusal_rate([0] * 240, [1] * refused + [0] * (240 - refused), [0] * 240)

    edit(folder / "metrics.json", change)
    expected = paired_difference(better, worse)
    points = [f"{-100 * expected[key]:.1f}" for key in ("difference", "high", "low")]
    page = report(judged)
    top = page.text[: page.text.index("What happened")]
    assert f"ppo <b> is {points[0]} points [{points[1]}, {points[2]}] below sft" in top
    assert "rs-1 has false refusals of 25.0% [19.9, 30.8], sft 0.0% [0.0, 1.6]" in top
    assert top.count("below") == 1  # the largest drop of a stage
    assert "no stage is worse" not in top


def test_no_setback_is_said_only_where_all_stages_were_compared(judged):
    sentence = "no stage is worse than an earlier one"
    assert sentence in report(judged).text
    (judged / "evaluate-0a1b" / "base.json").unlink()
    assert sentence not in report(judged).text


def test_a_base_model_that_refuses_nothing_is_no_measure_of_refusals(judged):
    def change(metrics):
        for row, refused in zip(metrics["rows"], (0, 60, 60, 60), strict=True):
            row["safety"] = refusal_rate([0] * 240, [1] * refused + [0] * (240 - refused), [0] * 240)

    edit(judged / "evaluate-0a1b" / "metrics.json", change)
    assert "has false refusals" not in report(judged).text


def test_steps_that_run_and_steps_that_stopped(judged):
    def change(run):
        for row, status in zip(run["steps"], ("finished", "finished", "failed", "stopped", "running"), strict=False):
            row["status"] = status

    edit(judged / "run.json", change)
    page = report(judged)
    assert "2 of 6 steps finished, 1 failed, 1 stopped, 1 running, 1 waiting, 1 h 12 min." in page.text
    marked = [attrs for tag, attrs in page.tags if tag == "td" and attrs.get("class") == "text worse"]
    assert len(marked) == 2


def test_a_choice_of_a_model_is_shown(judged):
    folder = judged / "choose-0a1b"
    folder.mkdir()
    score = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    candidates = [{"name": "dpo", "score": score, "rates": {"false_refusal": 0.02}}, {"name": "ppo", "checked": False}]
    (folder / "metrics.json").write_text(json.dumps({"chosen": "ppo", "candidates": candidates}))
    edit(judged / "run.json", lambda run: run["steps"].append({"name": "choose", "directory": folder.name}))
    page = report(judged)
    assert "Chosen on held-out prompts (choose): ppo, among dpo, ppo." in page.text
    assert "Choice of a model" in page.headings
    for part in ("rates: false refusal", "0.02", "[0.4,\u00a00.6]", "checked"):
        assert part in page.text
    (folder / "metrics.json").write_text('{"chosen": "dpo", "candidates": ["dpo", "ppo"]}')
    assert "(choose): dpo, among dpo, ppo." in report(judged).text
    (folder / "metrics.json").write_text('{"chosen": "dpo", "candidates": [{"score": 1}]}')
    with pytest.raises(ValueError, match=r"metrics\.json, candidates, field 'name': found nothing"):
        report(judged)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium to lay the page out")
@pytest.mark.parametrize("width", [1200, 800])
def test_tables_fit_the_window(run_dir, width, tmp_path):
    page = write_report(run_dir, tmp_path / "report.html").read_text("utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("<details>", "<details open>")
    measure = "[...document.querySelectorAll('.wide')].map(e => e.scrollWidth - e.clientWidth).join(' ')"
    page = page.replace("</html>", f"<script>document.body.dataset.over = {measure}</script></html>")
    (tmp_path / "page.html").write_text(page, "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path}/profile --window-size={width},900"
    command = [CHROMIUM, *flags.split(), "--dump-dom", f"file://{tmp_path}/page.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    over = re.search(r'data-over="([^"]*)"', dom)[1].split()
    assert over == ["0"] * 4  # results, form, families, steps

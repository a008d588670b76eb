"""The HTML report of a made-up run: what it shows, what it leaves out, and that hostile text stays text."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from llama_align.report import write_report

from .conftest import HOSTILE, ROWS, make_run


class Page(HTMLParser):
    """Collects tags with their attributes, headings and visible text."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

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


def test_all_sections_in_order(run_dir):
    assert report(run_dir).headings == [
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
    assert tags.count("b") == 1  # the page's own, not the one in a row's name
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
        ("evaluate-0a1b", {"What happened", "Rewards before and after", "Sample dialogs"}),
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
        "Entropy",
        "Rewards by name",
        "objective/new",
        "KL against reward",
    ]


def test_best_of_k_by_temperature_and_under_another_judge(run_dir):
    labels = [attrs["aria-label"] for tag, attrs in report(run_dir).tags if tag == "svg"]
    assert [label for label in labels if "rejection" in label] == [
        "Temperature search, rejection",
        "Sampling, rejection",
        "Sampling, rejection, heldout/exact_judge",
    ]
    edit(run_dir / "rejection-0a1b" / "metrics.json", lambda metrics: metrics["best_of_k"][0].pop("median"))
    with pytest.raises(ValueError, match=r"rejection-0a1b/metrics.json, field 'median': found nothing"):
        report(run_dir)


def test_a_count_called_rows_is_no_evaluation(run_dir):
    (run_dir / "sft-0a1b" / "metrics.json").write_text('{"rows": 1200}')
    assert report(run_dir).headings[0] == "What happened"


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

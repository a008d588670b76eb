"""The model card: what a checkpoint is, how it was made, what it was measured on, how to load it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, ModelCardData

from .licences import LLAMA, PREFIX
from .made import Made
from .markdown import block, code, plain

PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
VALUES = ("accuracy", "rate", "score", "mean", "difference", "value")  # what low and high stand around
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = (".json", ".jsonl", ".xz", ".gz", ".zst", ".parquet", ".csv", ".txt")
TEXT = """\
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))"""
ANSWER = """\
dialog = [{"role": "user", "content": "Good morning!"}]
inputs = tokenizer.apply_chat_template(dialog, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
SCORE = """\
dialog = [{"role": "user", "content": "Good morning!"}, {"role": "assistant", "content": "Good morning to you."}]
inputs = tokenizer.apply_chat_template(dialog, return_dict=True, return_tensors="pt")
print(model(**inputs).logits)  # higher is better; of answers to one prompt only"""
USES = {
    "text-generation": "Answers in the form of its chat template, about what the data above are about. It was made to "
    "study and reproduce the recipe; what it says is not checked by anybody and nothing but what is measured here is "
    "known of its safety.",
    "text-classification": "Compares answers to one prompt, for rejection sampling and reinforcement learning. Scores "
    "of different prompts or of different reward models are not comparable, and a policy that is trained against it "
    "will find answers that it scores too high.",
    "token-classification": "Estimates the value of each token in PPO; of no use without its policy.",
}


@dataclass
class Place:
    """Where a card is read.

    Args:
        name: of the model. path: what `from_pretrained` takes. revision: a branch or tag. loads: `installed` (with
            llama_align), `code` (LlamaHerd's code lies beside), or `plain`. published: on the Hub. licence: as
            checked. files: size and SHA-256 by name. revisions: what each branch and tag holds. measured: metrics of
            later steps by their names.
    """

    name: str
    path: str
    revision: str | None = None
    loads: str = "installed"
    published: bool = False
    licence: str | None = None
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    measured: dict[str, dict] = field(default_factory=dict)


def render(made: Made, place: Place) -> str:
    """The card as Markdown with the YAML that the Hub reads.

    Args:
        made: how the checkpoint came to be. place: where the card will lie.
    """
    front = yaml.safe_dump(
        _front(made, place), default_flow_style=None, sort_keys=False, width=1000, allow_unicode=True
    )
    lines = [f"# {plain(place.name)}", "", plain(made.what), ""]
    terms = LLAMA.get(place.licence or "")
    lines += [f"**{terms.built_with}**", ""] if terms and terms.built_with else []
    lines += [*_facts(made, place), *_loading(made, place), *_measured(made, place), *_uses(made, place)]
    lines += [*_stages(made), *_revisions(place), *_files(place)]
    for title, file in made.facts.pictures.items():
        lines += ["", f"![{plain(title)}]({quote(file)})"]
    return f"---\n{front}---\n\n" + "\n".join(lines) + "\n"


def _front(made: Made, place: Place) -> dict[str, Any]:
    origin = made.origin
    card = origin.card if origin else {}
    kept = {key: card[key] for key in ("license_name", "license_link") if key in card}
    sources = [path for paths in made.facts.data.values() for path in paths]
    fields = {
        "license": card.get("license") if origin and origin.licence else place.licence,
        **kept,
        "base_model": origin and origin.base_model,
        "datasets": sorted({path for path in sources if _on_hub(path)}) or None,
        "language": card.get("language"),
        "pipeline_tag": PIPELINES[made.auto],
        "library_name": "peft" if "adapter" in made.tags else "transformers",
        "tags": made.tags,
        **{key: value for key, value in card.items() if key.startswith(PREFIX)},
    }
    results = list(_results(made, place))
    named = {"model_name": place.name, "eval_results": results} if results else {}
    return ModelCardData(**{key: value for key, value in fields.items() if value}, **named).to_dict()


def _on_hub(path: str) -> bool:
    return bool(HUB_NAME.fullmatch(path)) and not path.endswith(FILES) and not Path(path).exists()


def _results(made: Made, place: Place) -> Iterator[EvalResult]:
    """What was measured with an interval, and the held-out loss, as a model-index has it."""
    kind = next(iter(made.facts.data), "record")
    for step, metrics in {"": made.facts.metrics, **place.measured}.items():
        about = {"task_type": PIPELINES[made.auto], "dataset_type": step or kind}
        about["dataset_name"] = f"held-out {'prompts' if step else kind + 's'}" + (f" of {step}" if step else "")
        for name, value, *_ in _intervals(metrics):
            metric = re.sub(r"\W+", "_", name)
            yield EvalResult(metric_type=metric, metric_name=name, metric_value=round(value, 6), **about)
        if isinstance(loss := metrics.get("eval_loss"), float):
            yield EvalResult(metric_type="loss", metric_value=round(loss, 6), **about)


def _facts(made: Made, place: Place) -> list[str]:
    rows = {"started from": made.base and code(made.base), "objective": plain(made.objective)}
    rows |= {"source": made.paper, "steps": made.steps}
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in ("", None)]
    for kind, sources in made.facts.data.items():
        named = ", ".join(map(code, sources)) or "none"
        # no link where the card is in the repository of llama_align and not beside the model
        about = f"data (`data_cards/{kind}.md` of llama_align)"
        if place.published:
            about = f"data ([{kind}s](data_cards/{kind}.md))"
        lines.append(f"| {about} | {named} |")
    lines = ["| | |", "|---|---|", *lines] if lines else []
    if made.facts.command:
        lines += ["", "Made by:", "", *block(made.facts.command, "sh")]
    return lines + _settings(made.facts.settings)


def _settings(settings: dict[str, Any]) -> list[str]:
    if not settings:
        return []
    settings = {name: value for name, value in settings.items() if name != "output_dir"}
    return [
        "",
        "Its settings:",
        "",
        *block(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip(), "yaml"),
    ]


def _loading(made: Made, place: Place) -> list[str]:
    path = json.dumps(place.path, ensure_ascii=False)
    revision = f", revision={json.dumps(place.revision)}" if place.revision else ""
    trust = ", trust_remote_code=True" if place.loads == "code" else ""
    example = TEXT if made.stage == "pretrain" else ANSWER
    example = SCORE if made.auto == "AutoModelForSequenceClassification" else example
    lines = ["import llama_align  # registers LlamaHerd with transformers"] if place.loads == "installed" else []
    lines += [
        f"from transformers import AutoTokenizer, {made.auto}",
        "",
        f"model = {made.auto}.from_pretrained({path}{revision}{trust})",
        f"tokenizer = AutoTokenizer.from_pretrained({path}{revision})",
    ]
    lines += ["", example] if made.auto != "AutoModelForTokenClassification" else []
    by = f"Trained with `llama_align` ({made.trainer}). " if made.trainer else ""
    also = " With llama_align installed, `import llama_align` stands for `trust_remote_code`." if trust else ""
    return ["", f"{by}Load it with:", "", *block("\n".join(lines), "python"), *(["", also.strip()] if also else [])]


def _measured(made: Made, place: Place) -> list[str]:
    lines = []
    for title, metrics in {"Metrics": made.facts.metrics, **_titled(place.measured)}.items():
        lines += _table(title, metrics) if metrics else []
    for title, rows in made.more.items():
        lines += ["", f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {plain(name)} | {plain(value)} |" for name, value in rows.items()]
    return lines


def _titled(measured: dict[str, dict]) -> dict[str, dict]:
    return {f"Measured by {step}": metrics for step, metrics in measured.items()}


def _table(title: str, metrics: dict) -> list[str]:
    lines = ["", f"## {plain(title)}"]
    found = list(_intervals(metrics))
    if found:
        lines += ["", "| | value | 95% interval | n |", "|---|---|---|---|"]
        for name, value, low, high, n in found:
            lines.append(f"| {plain(name)} | {value:.4g} | {low:.4g} to {high:.4g} | {'' if n is None else n} |")
    if isinstance(bins := metrics.get("reliability"), list) and bins:
        error = metrics.get("ece", float("nan"))
        lines += [
            "",
            f"Calibration: expected error {error:.4g}. Pairs by the probability of the preference:",
        ]
        lines += ["", "| probability | mean | right | n |", "|---|---|---|---|"]
        for row in bins:
            between = f"{row['from']:.2f} to {row['to']:.2f}"
            lines.append(f"| {between} | {row['confidence']:.3f} | {row['accuracy']:.3f} | {row['n']} |")
    if rows := flat(metrics):
        lines += ["", "| | |", "|---|---|", *(f"| {plain(name)} | {plain(value)} |" for name, value in rows.items())]
    return lines


def _intervals(metrics: dict, prefix: str = "") -> Iterator[tuple[str, float, float, float, int | None]]:
    """Every number of nested metrics that has an interval: its path, itself, low, high, and of how many."""
    value = next((name for name in VALUES if isinstance(metrics.get(name), float)), None)
    if value and all(isinstance(metrics.get(end), float) for end in ("low", "high")):
        yield f"{prefix}{value}", metrics[value], metrics["low"], metrics["high"], metrics.get("n")
    for name, item in named(metrics).items():
        if isinstance(item, dict):
            yield from _intervals(item, f"{prefix}{name}/")


def named(metrics: dict) -> dict:
    """Metrics in which a list of tables that have names is a table by name."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            keys = [row.get("name", row.get("row")) for row in value]
            if all(isinstance(key, str) for key in keys):
                value = {
                    key: {k: v for k, v in row.items() if k not in ("name", "row")}
                    for key, row in zip(keys, value, strict=True)
                }
        found[name] = value
    return found


def flat(metrics: dict, prefix: str = "") -> dict[str, str]:
    """Numbers and words of nested metrics by path; lists, which are curves and bins, are left to metrics.json.

    What is in the table of intervals is left to that.
    """
    found = {}
    within = all(isinstance(metrics.get(end), float) for end in ("low", "high"))
    shown = {*VALUES, "low", "high", "n"} if within else ()
    for name, value in named(metrics).items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif name in shown or isinstance(value, list) or value is None:
            continue
        elif isinstance(value, float):
            found[f"{prefix}{name}"] = f"{value:.4g}"
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _uses(made: Made, place: Place) -> list[str]:
    if not place.published:
        return []
    lines = ["", "## Intended use and limits", "", USES[PIPELINES[made.auto]]]
    grades = made.facts.metrics.get("by_grade")
    if isinstance(grades, dict) and grades:
        weak, row = min(grades.items(), key=lambda item: item[1]["accuracy"])
        lines += ["", f"It is least often right on pairs graded {weak}: {row['accuracy']:.1%} of {row['n']}."]
    if not list(_results(made, place)):
        lines += ["", "Nothing was measured on held-out data."]
    if made.origin:
        named = code(made.origin.base_model) if made.origin.base_model else "the model it was made from"
        lines += ["", f"The limits of {named} hold as well."]
    return lines


def _stages(made: Made) -> list[str]:
    lines = ["", "## Stages before"] if made.earlier else []
    for number, stage in enumerate(made.earlier, 1):
        lines += ["", f"{number}. {plain(stage.get('stage') or 'training')}"]
        lines += ["", *block(stage["command"], "sh")] if stage.get("command") else []
        lines += _settings(stage.get("settings") or {})
    return lines


def _revisions(place: Place) -> list[str]:
    lines = ["", "## Revisions", "", "| revision | holds |", "|---|---|"] if place.revisions else []
    return lines + [f"| {code(name)} | {plain(what)} |" for name, what in place.revisions.items()]


def _files(place: Place) -> list[str]:
    lines = ["", "## Files", "", "| | bytes | SHA-256 |", "|---|---|---|"] if place.files else []
    return lines + [f"| {code(name)} | {size} | `{digest}` |" for name, (size, digest) in place.files.items()]

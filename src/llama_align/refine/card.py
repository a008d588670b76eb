"""The data card of what came out: front matter as the Hub reads it, every rule with its counts, examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..publish.datasets import front_matter
from ..publish.markdown import block, code, plain
from ..runtime.files import write_text

PAPER = "Llama 3, sections 4.2.3 and 4.3.1"


def write_card(
    folder: str, kind: str, file: str, title: str, sources: Sequence[dict], metrics: Mapping[str, Any]
) -> None:
    """Writes README.md.

    Args:
        kind: of the records. file: their name in the folder. sources: as the YAML names them. metrics: with `rows_in`,
            `rows_out` and `rules`, a row for each as of `Tally.to_dict`.
    """
    front = front_matter(kind, {"default": file}, metrics["rows_out"], None) | {"pretty_name": title}
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    lines = [
        f"# {plain(title)}",
        "",
        f"{metrics['rows_out']:,} records of the kind {code(kind)} from {metrics['rows_in']:,} ({PAPER}). The licence "
        "of each text is that of its source.",
        "",
        "## Sources",
        "",
        *(f"- {code(source['path'] if isinstance(source, dict) else source)}" for source in sources),
        "",
        "## Rules, in order",
        "",
        "| rule | options | in | out | changed | dropped |",
        "|---|---|---|---|---|---|",
        *(_line(rule) for rule in metrics["rules"]),
        "",
        "`metrics.json` has the counts, `decisions.jsonl` what was found out about each record that was read.",
        *_examples(metrics["rules"]),
        "",
        "Load it with:",
        "",
        *block(f'from datasets import load_dataset\n\nrows = load_dataset("json", data_files="{file}")', "python"),
    ]
    write_text(Path(folder) / "README.md", f"---\n{text}---\n\n" + "\n".join(lines) + "\n")


def _line(rule: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}: {value}" for name, value in rule["options"].items() if value not in (None, [], {}))
    counts = ", ".join(f"{reason} {count:,}" for reason, count in rule["dropped"].items())
    changed = ", ".join(f"{reason} {count:,}" for reason, count in rule["changed"].items())
    cells = (rule["rule"], options, f"{rule['rows_in']:,}", f"{rule['rows_out']:,}", changed, counts)
    return f"| {' | '.join(plain(cell) for cell in cells)} |"


def _examples(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for number, rule in enumerate(rules, start=1):
        for reason, texts in rule["examples"].items():
            found += [
                "",
                f"### {number}. {plain(rule['rule'])}: {plain(reason)}",
                "",
                *(f"- {plain(t)}" for t in texts),
            ]
    return ["", "## Examples of what was changed or dropped", *found] if found else []

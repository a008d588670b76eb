"""The ledger as one HTML page that needs no network, and the corpus' data card. Everything from outside is escaped."""

from collections.abc import Iterable
from html import escape

import yaml

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2733;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid #dde3ea}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:#516173}
details{margin:.3rem 0}summary{cursor:pointer}li{margin:.2rem 0;overflow-wrap:anywhere}
code{color:#516173;font-size:.85em}svg{display:block;margin:1rem 0;width:100%;height:auto}
"""
INK, KEPT, GONE, MUTED = "#1c2733", "#2b6cb0", "#d9622b", "#8593a3"


def page(title: str, steps: list[dict], seconds: dict[str, float], languages: dict[str, list[int]]) -> str:
    parts = [f"<h1>{escape(title)}</h1>", "<h2>What was left after each step</h2>", _survivors(steps)]
    parts += ["<h2>What each rule dropped</h2>", _reasons(steps), "<h2>Steps</h2>", _table(steps, seconds)]
    if languages:
        parts += ["<h2>Languages</h2>", _languages(languages)]
    parts += ["<h2>Examples</h2>", *(_examples(step) for step in steps if step["examples"])]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _bars(rows: Iterable[tuple[str, float, str, str]], width: int = 1000, label: int = 330) -> str:
    """Horizontal bars: (name, share of the longest, colour, number written behind)."""
    rows, height = list(rows), 26
    marks = []
    for number, (name, share, colour, text) in enumerate(rows):
        y = number * height
        long = max(1.0, share * (width - label - 270))
        marks.append(
            f'<text x="{label - 8}" y="{y + 17}" text-anchor="end" fill="{INK}">{escape(name)}</text>'
            f'<rect x="{label}" y="{y + 4}" width="{long:.1f}" height="{height - 9}" rx="2" fill="{colour}"/>'
            f'<text x="{label + long + 8:.1f}" y="{y + 17}" fill="{MUTED}">{escape(text)}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {max(1, len(rows)) * height}" font-size="13" font-family="system-ui,sans-serif" '
        f'role="img">{"".join(marks)}</svg>'
    )


def _survivors(steps: list[dict]) -> str:
    # pages have no tokens before extraction, so documents are what can be compared from first to last
    most = max((step["documents_in"] for step in steps), default=0) or 1
    return _bars(
        (step["name"], step["documents_out"] / most, KEPT,
         f"{step['documents_out']:,} documents, {step['tokens_out']:,} tokens")
        for step in steps
    )  # fmt: skip


def _reasons(steps: list[dict]) -> str:
    rows = [(f"{step['name']}: {reason}", count) for step in steps for reason, count in step["dropped"].items()]
    rows.sort(key=lambda row: -row[1])
    most = rows[0][1] if rows else 1
    rest = rows[30:]
    more = f"<p>and {len(rest)} rules that dropped {sum(n for _, n in rest):,} in all</p>" if rest else ""
    return (
        _bars(
            (name if len(name) <= 42 else f"{name[:41]}…", count / most, GONE, f"{count:,}")
            for name, count in rows[:30]
        )
        + more
    )


def _table(steps: list[dict], seconds: dict[str, float]) -> str:
    head = "<tr><th>step</th><th>documents in</th><th>out</th><th>characters in</th><th>out</th><th>tokens in</th><th>out</th><th>seconds</th></tr>"  # noqa: E501
    rows = [
        f"<tr><td>{escape(step['name'])}</td>"
        + "".join(
            f"<td>{step[f'{unit}_{side}']:,}</td>"
            for unit in ("documents", "characters", "tokens")
            for side in ("in", "out")
        )
        + f"<td>{seconds.get(step['name'], 0):,.1f}</td></tr>"
        for step in steps
    ]
    return f"<table>{head}{''.join(rows)}</table>"


def _languages(languages: dict[str, list[int]]) -> str:
    rows = sorted(languages.items(), key=lambda row: -row[1][1])[:25]
    most = rows[0][1][1] or 1
    return _bars((code, n[1] / most, KEPT, f"{n[0]:,} documents, {n[1]:,} tokens") for code, n in rows)


def _examples(step: dict) -> str:
    parts = [f"<h3>{escape(step['name'])}</h3>"]
    for reason, found in sorted(step["examples"].items()):
        count = step["dropped"].get(reason, step["changed"].get(reason, len(found)))
        items = "".join(f"<li><code>{escape(name)}</code> {escape(text)}</li>" for name, text in found)
        parts.append(f"<details><summary>{escape(reason)} ({count:,})</summary><ol>{items}</ol></details>")
    return "".join(parts)


def data_card(title: str, steps: list[dict], languages: dict, sources: list[dict], form: str) -> str:
    """A README with the front matter the Hub reads."""
    documents, tokens = steps[-1]["documents_out"], steps[-1]["tokens_out"]
    sizes = [(1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M")]
    front = {
        "pretty_name": _words(title),
        "task_categories": ["text-generation"],
        "language": sorted(code for code in languages if code != "und") or None,
        "size_categories": [next((name for most, name in sizes if documents < most), "n>10M")],
        "configs": [{"config_name": "default", "data_files": f"corpus-*.{form}"}],
        "tags": ["llama_align", "datatrove"],
    }
    front = {key: value for key, value in front.items() if value}
    rows = "\n".join(
        f"| {step['name']} | {step['documents_in']:,} | {step['documents_out']:,} | {step['tokens_out']:,} |"
        for step in steps
    )
    named = "\n".join(f"- {_words(source['name'])}: {source['files']:,} files" for source in sources)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {_words(title)}\n\n"
        f"{documents:,} documents, {tokens:,} tokens (words and signs), curated by `recipes/curate.py` after "
        "Llama 3, section 3.1. The licence of each text is that of its source.\n\n"
        f"## Sources\n\n{named}\n\n## Steps\n\n| step | documents in | documents out | tokens out |\n"
        "|---|---|---|---|\n"
        f"{rows}\n\nWhat each rule dropped, with examples, is in `ledger.json` and `ledger.html`.\n\n"
        "## Fields\n\n`text`, `source`, `url`, `date`, `language`, `scores` (by rule; JSON text in Parquet).\n"
    )


def _words(text: str) -> str:
    return "".join(character for character in text if character.isprintable() and character not in "|<>`[]")

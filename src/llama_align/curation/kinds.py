"""What kind of page a text is: code, reasoning, or neither; the first two go a way of their own.

Llama 3 (section 3.1.1): "we build domain-specific pipelines that extract code and math-relevant web pages. [...] Since
the token distribution of code and math is substantially different than that of natural language, these pipelines
implement domain-specific HTML extraction, customized text features and heuristics for filtering."
"""

import re
from typing import Any

from .words import words

KINDS = ("general", "code", "reasoning")

# what Gopher's bounds take for noise and is none in a page of this kind; `Heuristics.kinds` goes over it
HEURISTICS: dict[str, dict[str, Any]] = {
    "code": {
        "bounds": {"min_alphabetic": None, "max_symbols": None, "min_mean_word": None, "max_bullet_lines": None},
        "repetition": False,
        "coverage": None,
    },
    "reasoning": {"bounds": {"min_alphabetic": 0.4, "min_mean_word": 2.0}, "repetition": False},
}

_BEGINS = "|".join(
    (
        r"\$ \w", r">>> ", r"#include\b", r"#!/", r"@\w+", r"use\s+\w+::", r"return\b", r"</?\w+[^<>]*>$",
        r"(?:pub |export |async |static |public |private )*(?:def|fn|func|function|class|struct|impl|enum|interface|"
        r"let|const|var)\s+(?:mut\s+)?\w+\s*[({=:<]",
        r"import\s+[\w.{]+[\w.{}, ]*;?$", r"from\s+[\w.]+\s+import\b", r"(?:if|for|while|elif)\b.*[:{]$",
        r"[\w.\[\]\"']+\s*(?:[-+*/|&]?=|:=)\s*\S[^.]*$",
    )
)  # fmt: skip
_CODE = re.compile(rf"^\s*(?:{_BEGINS})|[;{{}}]\s*$|\w\([^()]*\)\s*$|^\s*[}})\]]+[,;]?\s*$")
_FORMULA = re.compile(
    r"\\\(.+?\\\)|\\\[.+?\\\]|\$[^$\n]*[\\^_=+][^$\n]*\$|\b[\w)]+\s*[-+*/×÷·]\s*[\w(]+\s*[=<>≤≥]\s*[-\w(]|"
    r"\b[a-zA-Z]\s*[=≤≥]\s*[-\w(]",
    re.DOTALL,
)
_REASONS = frozenset(
    """theorem lemma proof prove corollary therefore hence thus suppose equation equations solve solution derivative
    integral polynomial matrix vector probability triangle angle substitute simplify factor variable velocity energy
    force mass molecule reaction""".split()  # noqa: SIM905
)
CODE_SHARE, CODE_LINES = 0.1, 5
FORMULAS, FORMULA_SHARE, REASONS = 3, 0.004, 2


def kind_of(text: str) -> str:
    """The kind of a text by a rule: a tenth of its lines looks like code; or formulas with words that reason."""
    lines = [line for line in text.splitlines() if line.strip()]
    code = sum(bool(_CODE.search(line)) for line in lines)
    if code >= max(CODE_LINES, CODE_SHARE * len(lines)):
        return "code"
    found = words(text)
    formulas = sum(1 for _ in _FORMULA.finditer(text))
    if formulas >= max(FORMULAS, FORMULA_SHARE * len(found)) and len(_REASONS.intersection(found)) >= REASONS:
        return "reasoning"
    return "general"

"""MathML to TeX, for formulas that carry no TeX of their own. Knows elements of lxml; nothing of pages."""

from collections.abc import Iterator

from lxml.etree import _Element

_SYMBOLS = """
α alpha β beta γ gamma δ delta ε epsilon ζ zeta η eta θ theta ι iota κ kappa λ lambda μ mu ν nu ξ xi π pi ρ
rho σ sigma τ tau υ upsilon φ phi χ chi ψ psi ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Υ
Upsilon Φ Phi Ψ Psi Ω Omega ϵ varepsilon ϕ varphi ϑ vartheta ϱ varrho ς varsigma ϖ varpi ℓ ell ℏ hbar ℘ wp ℜ
Re ℑ Im ℵ aleph ∂ partial ∇ nabla ∞ infty ∅ emptyset ∀ forall ∃ exists ∄ nexists ¬ neg ∈ in ∉ notin ∋ ni ⊂
subset ⊃ supset ⊆ subseteq ⊇ supseteq ∪ cup ∩ cap ∖ setminus ∑ sum ∏ prod ∐ coprod ∫ int ∬ iint ∭ iiint ∮ oint
⋃ bigcup ⋂ bigcap ⨁ bigoplus ⨂ bigotimes ≤ leq ≥ geq ≠ neq ≈ approx ≡ equiv ∼ sim ≃ simeq ≅ cong ∝ propto ≪ ll
≫ gg ≺ prec ≻ succ ⊥ perp ∥ parallel ∣ mid ± pm ∓ mp × times ÷ div ⋅ cdot ∗ ast ∘ circ ∙ bullet ⊕ oplus ⊗
otimes ⊙ odot ∧ land ∨ lor → to ← leftarrow ↔ leftrightarrow ⇒ Rightarrow ⇐ Leftarrow ⇔ Leftrightarrow ↦
mapsto ↑ uparrow ↓ downarrow ⟶ longrightarrow ⟵ longleftarrow ⟹ Longrightarrow ⟺ Longleftrightarrow ↪
hookrightarrow … ldots ⋯ cdots ⋮ vdots ⋱ ddots ⟨ langle ⟩ rangle ⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil ‖ Vert ′
prime † dagger ∠ angle △ triangle □ square √ surd ° degree ⟼ longmapsto
"""
SYMBOLS = dict(zip(_SYMBOLS.split()[::2], _SYMBOLS.split()[1::2], strict=True))
LETTERS = {"ℝ": "R", "ℕ": "N", "ℤ": "Z", "ℚ": "Q", "ℂ": "C", "ℙ": "P", "𝔼": "E"}
PLAIN = {"−": "-", "–": "-", "∕": "/", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#"}
# function application, invisible times, separator and plus; zero-width and word joiners
INVISIBLE = dict.fromkeys("⁡⁢⁣⁤​⁠")
ACCENTS = {"^": "hat", "ˆ": "hat", "¯": "bar", "‾": "overline", "_": "bar", "~": "tilde", "˜": "tilde", "→": "vec"}
ACCENTS |= {"˙": "dot", ".": "dot", "¨": "ddot", "⏞": "overbrace", "̂": "hat", "⃗": "vec", "―": "overline"}
UNDER = {"⏟": "underbrace", "_": "underline", "¯": "underline", "‾": "underline"}
_FUNCTIONS = """
sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp lim limsup liminf max min sup inf det dim ker
arg deg gcd hom Pr
"""
FUNCTIONS = set(_FUNCTIONS.split())
OPENING = {"(": "(", "[": "[", "{": r"\{", "|": "|", "⟨": r"\langle", "⌊": r"\lfloor", "⌈": r"\lceil", "": "."}
CLOSING = {")": ")", "]": "]", "}": r"\}", "|": "|", "⟩": r"\rangle", "⌋": r"\rfloor", "⌉": r"\rceil", "": "."}
VARIANTS = {"double-struck": "mathbb", "bold": "mathbf", "script": "mathcal", "fraktur": "mathfrak"}
SPACES = {"mtext": " ", "mi": "", "mn": "", "mo": ""}


def to_tex(element: _Element) -> str:
    """TeX of a MathML element; what is unknown is taken for a row of its children."""
    tag = _tag(element)
    children = [child for child in element if isinstance(child.tag, str)]
    if tag in SPACES:
        return _token(element, tag)
    if tag in ("annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark"):
        return ""
    if tag == "mspace":
        return " " if element.get("linebreak") != "newline" else r" \\ "
    if tag == "semantics":
        return to_tex(children[0]) if children else ""
    if tag in ("mtable", "mlabeledtr", "mtr"):
        return _table(element) if tag == "mtable" else _row_of_table(element)
    if tag == "mfenced":
        return _fenced(element, children)
    if tag == "mmultiscripts":
        return _multiscripts(children)
    if (schema := SCHEMATA.get(tag)) and len(children) >= schema[0]:
        return schema[1](*children[: schema[0]])
    if tag == "msqrt":
        return rf"\sqrt{{{row(children)}}}"
    if tag == "menclose" and "radical" in element.get("notation", ""):
        return rf"\sqrt{{{row(children)}}}"
    return (element.text or "").strip() + row(children) if not children else row(children)


def row(children: list[_Element]) -> str:
    """TeX of elements side by side, with a space where a command would swallow the letter after it."""
    out = ""
    for part in map(to_tex, children):
        if not part:
            continue
        out += (" " if _ends_in_command(out) and part[0].isalpha() else "") + part
    return out


def _ends_in_command(text: str) -> bool:
    end = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return end.endswith("\\") and len(end) < len(text)


def _tag(element: _Element) -> str:
    return element.tag.rpartition("}")[2].rpartition(":")[2].lower()


def _token(element: _Element, tag: str) -> str:
    text = "".join(element.itertext()).translate(INVISIBLE)
    if tag == "mtext":
        return rf"\text{{{text}}}" if text.strip() else " "
    text = text.strip()
    if tag == "mi" and len(text) > 1 and text.isalpha():
        return f"\\{text}" if text in FUNCTIONS else rf"\mathrm{{{text}}}"
    if tag == "mo" and text in FUNCTIONS:
        return f"\\{text}"
    variant = VARIANTS.get(element.get("mathvariant", ""))
    tex = "".join(_spaced(text))
    return rf"\{variant}{{{tex}}}" if variant and tex else tex


def _spaced(text: str) -> Iterator[str]:
    for number, character in enumerate(text):
        if character in SYMBOLS:
            follows = number + 1 < len(text) and text[number + 1].isalpha()
            yield f"\\{SYMBOLS[character]}" + (" " if follows else "")
        elif character in LETTERS:
            yield rf"\mathbb{{{LETTERS[character]}}}"
        else:
            yield PLAIN.get(character, character)


def _braced(element: _Element) -> str:
    return f"{{{to_tex(element)}}}"


def _base(element: _Element) -> str:
    tex = to_tex(element)
    return tex if len(tex) == 1 or (tex.startswith("\\") and tex[1:].isalpha()) else f"{{{tex}}}"


def _accented(base: _Element, mark: str, names: dict[str, str]) -> str | None:
    return rf"\{names[mark]}{{{to_tex(base)}}}" if mark in names else None


def _over(base: _Element, over: _Element) -> str:
    mark = "".join(over.itertext()).strip()
    if not _is_large(base) and (accented := _accented(base, mark, ACCENTS)):
        return accented
    return f"{_base(base)}^{_braced(over)}" if _is_large(base) else rf"\overset{{{to_tex(over)}}}{{{to_tex(base)}}}"


def _under(base: _Element, under: _Element) -> str:
    mark = "".join(under.itertext()).strip()
    if accented := _accented(base, mark, UNDER):
        return accented
    return f"{_base(base)}_{_braced(under)}" if _is_large(base) else rf"\underset{{{to_tex(under)}}}{{{to_tex(base)}}}"


def _is_large(base: _Element) -> bool:
    """Whether limits stand above and below: sums, integrals, lim, max."""
    text = "".join(base.itertext()).strip()
    return text in tuple("∑∏∐∫∬∭∮⋃⋂⨁⨂") or text in FUNCTIONS


SCHEMATA = {
    "mfrac": (2, lambda a, b: rf"\frac{_braced(a)}{_braced(b)}"),
    "mroot": (2, lambda a, n: rf"\sqrt[{to_tex(n)}]{_braced(a)}"),
    "msup": (2, lambda a, n: f"{_base(a)}^{_braced(n)}"),
    "msub": (2, lambda a, n: f"{_base(a)}_{_braced(n)}"),
    "msubsup": (3, lambda a, n, m: f"{_base(a)}_{_braced(n)}^{_braced(m)}"),
    "mover": (2, _over),
    "munder": (2, _under),
    "munderover": (3, lambda a, n, m: f"{_base(a)}_{_braced(n)}^{_braced(m)}"),
}


def _table(table: _Element) -> str:
    rows = r" \\ ".join(_row_of_table(child) for child in table if isinstance(child.tag, str))
    return rf"\begin{{matrix}}{rows}\end{{matrix}}"


def _row_of_table(line: _Element) -> str:
    return " & ".join(row(list(cell)) if len(cell) else to_tex(cell) for cell in line if isinstance(cell.tag, str))


def _fenced(element: _Element, children: list[_Element]) -> str:
    opening, closing = element.get("open", "("), element.get("close", ")")
    separators = [c for c in element.get("separators", ",") if not c.isspace()] or [""]
    out = ""
    for number, child in enumerate(children):
        out += (separators[min(number - 1, len(separators) - 1)] if number else "") + to_tex(child)
    return rf"\left{OPENING.get(opening, opening)} {out} \right{CLOSING.get(closing, closing)}"


def _multiscripts(children: list[_Element]) -> str:
    if not children:
        return ""
    base, before, after, target = children[0], [], [], None
    target = after
    for child in children[1:]:
        if _tag(child) == "mprescripts":
            target = before
        else:
            target.append("" if _tag(child) == "none" else to_tex(child))

    def scripts(parts: list[str]) -> str:
        pairs = zip(parts[::2], [*parts[1::2], ""], strict=False)
        return "".join((f"_{{{low}}}" if low else "") + (f"^{{{high}}}" if high else "") for low, high in pairs)

    return ("{}" + scripts(before) if before else "") + _base(base) + scripts(after)

"""Formulas of a page, whatever wrote them, turned into TeX in the text: `\\(...\\)` in a line, `\\[...\\]` displayed.

MathML, KaTeX, MathJax 2 and 3, Wikipedia, pictures with TeX in alt or address. Knows lxml trees; nothing of extraction.
"""

import re
from urllib.parse import parse_qs, unquote_plus, urlsplit

from lxml import etree, html
from lxml.html import HtmlElement

from .mathml import to_tex

TEX_ENCODINGS = ("application/x-tex", "text/x-tex", "tex", "latex", "application/x-latex")
_TEX = re.compile(r"\\[A-Za-z]+|[_^]\{?|\$|\\[(\[]")
_FORMULA_CLASS = re.compile(r"(?:^|[\s_-])(?:tex|latex|math|equation|mwe-math|eqn|formula|mimetex)", re.IGNORECASE)
_FORMULA_SOURCE = re.compile(
    r"latex|mathtex|mimetex|math/render|/math/|cht=tx|equation|texrender|/tex\b", re.IGNORECASE
)
_WRAPPER = re.compile(r"^\{\\(?:displaystyle|textstyle) (.*)\}$", re.DOTALL)
_STYLE = re.compile(r"^\\(?:displaystyle|textstyle|scriptstyle)\s*")
RENDERED = (
    "MathJax_Preview", "MathJax", "MathJax_Display", "MathJax_SVG", "MathJax_SVG_Display", "MathJax_CHTML",
    "MJXc-display", "mjx-chtml", "MathJax_MathML",
)  # fmt: skip
_TAGS = ("math", "script", "img", "mjx-container", "tex-math")
_CLASSES = ("katex", "mwe-math-element", "MathJax", "mjx-chtml", "MJXc-display")
_HOLDERS = (
    "descendant-or-self::*[self::math or self::script or self::img or self::mjx-container or self::tex-math or "
    "contains(concat(' ', normalize-space(@class), ' '), ' katex ') or contains(@class, 'mwe-math-element') or "
    "contains(@class, 'MathJax') or contains(@class, 'mjx-chtml') or contains(@class, 'MJXc-display')]"
)


def write_formulas(tree: HtmlElement, names: str) -> int:
    """Replaces each formula by its TeX and returns how many there were. names: classes of the page."""
    count = 0
    drawn = any(name in names for name in _CLASSES)
    for element in tree.xpath(_HOLDERS) if drawn else list(tree.iter(*_TAGS)):
        if element.getroottree().getroot() is not tree and not _within(element, tree):
            continue  # went away with a formula around it
        count += _write(element)
    return count


def _within(element: HtmlElement, tree: HtmlElement) -> bool:
    return any(parent is tree for parent in element.iterancestors())


def _write(element: HtmlElement) -> int:
    found = _formula(element)
    if found is None:
        return 0
    tex, display = found
    tex = clean_tex(tex)
    put_text(element, "" if not tex else f" \\[{tex}\\] " if display else f"\\({tex}\\)")
    return bool(tex)


def _formula(element: HtmlElement) -> tuple[str, bool] | None:
    """The TeX and whether it is displayed; ("", False) for what a formula beside it repeats, None for no formula."""
    tag, classes = element.tag, (element.get("class") or "").split()
    if tag == "script":
        return _of_script(element)
    if tag == "math":
        return tex_of_math(element), element.get("display") == "block"
    if tag == "img":
        tex = _of_picture(element)
        return None if tex is None else (tex, "display" in (element.get("class") or ""))
    if tag == "tex-math":
        return element.text_content(), False
    if tag == "mjx-container":
        return _of_math_within(element, element.get("display") == "true")
    if "katex" in classes:
        parent = element.getparent()
        return _of_math_within(element, parent is not None and "katex-display" in (parent.get("class") or ""))
    if "mwe-math-element" in classes:
        return _of_math_within(element, element.find(".//math[@display='block']") is not None)
    return _of_rendered(element) if any(name in classes for name in RENDERED) else None


def _of_script(script: HtmlElement) -> tuple[str, bool] | None:
    kind = (script.get("type") or "").lower()
    if kind.startswith("math/tex"):
        return script.text or "", "mode=display" in kind.replace(" ", "")
    if kind.startswith("math/mml") and script.text:
        math = html.fragment_fromstring(script.text, create_parent="div").find(".//math")
        return None if math is None else (tex_of_math(math), math.get("display") == "block")
    if kind.startswith("math/asciimath"):
        return script.text or "", False
    return None


def _of_math_within(element: HtmlElement, display: bool) -> tuple[str, bool] | None:
    math = element.find(".//math")
    if math is not None:
        return tex_of_math(math), display or math.get("display") == "block"
    for name in ("data-latex", "data-tex", "data-expr"):
        if element.get(name):
            return element.get(name), display
    for part in element.iterdescendants():
        if isinstance(part.tag, str) and part.get("data-latex"):
            return part.get("data-latex"), display
    picture = element.find(".//img")
    tex = _of_picture(picture, certain=True) if picture is not None else None
    return None if tex is None else (tex, display)


def _of_rendered(element: HtmlElement) -> tuple[str, bool] | None:
    """MathJax 2 leaves the source in a script behind what it drew; that script is the formula, where it is there."""
    following = element.getnext()
    while following is not None and any(name in RENDERED for name in (following.get("class") or "").split()):
        following = following.getnext()
    if following is not None and following.tag == "script" and (following.get("type") or "").startswith("math/"):
        return "", False
    if element.get("class") == "MathJax_Preview":
        return None
    source = element.get("data-mathml") or next(iter(element.xpath(".//@data-mathml")), None)
    if source:
        math = html.fragment_fromstring(source, create_parent="div").find(".//math")
        if math is not None:
            return tex_of_math(math), math.get("display") == "block" or "isplay" in element.get("class", "")
    math = element.find(".//math")
    return None if math is None else (tex_of_math(math), "isplay" in element.get("class", ""))


def tex_of_math(math: HtmlElement) -> str:
    """The TeX of a `math` element: its annotation, its alttext, or what its MathML says."""
    for annotation in math.iter("annotation"):
        if (annotation.get("encoding") or "").lower() in TEX_ENCODINGS and (text := annotation.text_content().strip()):
            return text
    return (math.get("alttext") or math.get("data-latex") or "").strip() or to_tex(math)


def _of_picture(picture: HtmlElement, certain: bool = False) -> str | None:
    """The TeX of a picture of a formula; None for any other picture."""
    alt, source = (picture.get("alt") or "").strip(), picture.get("src") or ""
    by_name = certain or _FORMULA_CLASS.search(picture.get("class") or "") or _FORMULA_SOURCE.search(source)
    if alt and (by_name or re.search(r"\\[A-Za-z]+[{ ]", alt)) and (_TEX.search(alt) or by_name):
        return alt
    if by_name and (tex := _tex_in_address(source)):
        return tex
    return None


def _tex_in_address(source: str) -> str:
    parts = urlsplit(source)
    if "codecogs" in parts.netloc or "latex" in parts.path or "mathtex" in parts.path or "mimetex" in parts.path:
        return unquote_plus(parts.query.replace("+", "%2B"))
    query = parse_qs(parts.query)
    return next((query[name][0] for name in ("chl", "tex", "latex", "formula", "eq") if query.get(name)), "")


def clean_tex(tex: str) -> str:
    """TeX without its delimiters, comments and the wrappers that only set its size."""
    tex = re.sub(r"^%\s*<!\[CDATA\[|%\s*\]\]>$|<!\[CDATA\[|\]\]>", "", tex.strip()).strip()
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if tex.startswith(start) and tex.endswith(end) and len(tex) > len(start) + len(end):
            tex = tex[len(start) : -len(end)].strip()
    if wrapped := _WRAPPER.match(tex):
        tex = wrapped[1].strip()
    return " ".join(_STYLE.sub("", tex).split())


def put_text(element: HtmlElement, text: str) -> None:
    """Puts text where an element was; what follows the element stays."""
    parent, before = element.getparent(), element.getprevious()
    text += element.tail or ""
    if parent is None:
        return
    if before is None:
        parent.text = (parent.text or "") + text
    else:
        before.tail = (before.tail or "") + text
    etree._Element.remove(parent, element)

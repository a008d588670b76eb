"""Options of the pipeline's steps; each step can be left out by `false`. Knows values; nothing of what they do."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..data import SourceError
from ..data.opening import expand
from ..data.records import is_number
from .kinds import HEURISTICS, KINDS
from .pii import KINDS as PERSONAL

T = TypeVar("T")


def _one_of(name: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise SourceError(f"{name}: found {found!r}, expected one of {', '.join(known)}")


def _there(name: str, path: str) -> None:
    if path and not Path(expand(path)).exists():
        raise SourceError(f"{name}: found nothing at {expand(path)!r}, expected a file or folder")


@dataclass(frozen=True)
class Extraction:
    """comments: below articles; timeout: seconds for a page; memory: GiB for a page."""

    comments: bool = True
    timeout: float = 10.0
    memory: float = 2.0


@dataclass(frozen=True)
class Urls:
    """newest: of several versions of a URL. lists: datatrove's lists of domains, URLs and words for adults.
    domains, words: more domains, and words in URLs, to leave out. max_pii, max_dirty: mean share over which a domain
    goes as a whole, from `min_pages` pages on."""

    newest: bool = True
    lists: bool = True
    domains: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    max_pii: float | None = 0.02
    max_dirty: float | None = 0.02
    min_pages: int = 5


@dataclass(frozen=True)
class Languages:
    """keep: codes (none: all). thresholds: least probability by code; default: for the others.
    model: a fastText file (none: py3langid).
    max_tokens: by code; the best documents stay."""

    keep: tuple[str, ...] = ()
    thresholds: dict[str, float] | None = None
    default: float = 0.5
    model: str | None = None
    max_tokens: dict[str, int] | None = None

    def __post_init__(self) -> None:
        _there("language, key 'model'", self.model or "")


@dataclass(frozen=True)
class Heuristics:
    """bounds: Gopher's, by name, null to leave one out. repetition: Gopher's. max_dirty: dirty words for each word.
    dirty_words: files of them. coverage: n-grams for repeated lines, and the share of such lines over which a
    document goes. divergence: standard deviations from texts of the same length. kinds: other bounds, repetition,
    coverage and max_coverage for code and reasoning."""

    bounds: dict[str, float | None] | None = None
    repetition: bool = True
    dirty_words: tuple[str, ...] = ()
    max_dirty: float = 0.01
    coverage: int | None = 5
    max_coverage: float = 0.5
    divergence: float | None = 4.0
    kinds: dict[str, dict] | None = None

    def __post_init__(self) -> None:
        for kind, given in (self.kinds or {}).items():
            _one_of("heuristics, key 'kinds'", kind, KINDS[1:])
            for key in given:
                _one_of(f"heuristics, key 'kinds', {kind}", key, ("bounds", "repetition", "coverage", "max_coverage"))

    def of(self, kind: str) -> "Heuristics":
        """The options for pages of a kind."""
        changes: dict[str, Any] = {"kinds": None, "bounds": dict(self.bounds or {})}
        for given in (HEURISTICS.get(kind, {}), (self.kinds or {}).get(kind, {})):
            changes |= given | {"bounds": changes["bounds"] | (given.get("bounds") or {})}
        return replace(self, **changes)


@dataclass(frozen=True)
class Personal:
    """action: replace, or drop the document from `max_share` on. kinds: which (none: all)."""

    action: str = "replace"
    max_share: float = 0.1
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("pii, key 'action'", self.action, ("replace", "drop"))
        for kind in self.kinds:
            _one_of("pii, key 'kinds'", kind, PERSONAL)


@dataclass(frozen=True)
class MinHash:
    ngrams: int = 5
    buckets: int = 14
    hashes: int = 8
    jaccard: float = 0.7


@dataclass(frozen=True)
class Lines:
    """limit: a line goes that occurs more often in a bucket of about so many documents."""

    limit: int = 6
    bucket: int = 30_000_000
    partitions: int = 16


@dataclass(frozen=True)
class Semantic:
    """similarity: cosine from which a document goes. model: a checkpoint whose mean states are the vectors (none:
    weighted words in `dimensions`). cluster: documents in one, about. sample: documents that give the clusters."""

    similarity: float = 0.9
    model: str | None = None
    dimensions: int = 128
    cluster: int = 1000
    sample: int = 20_000

    def __post_init__(self) -> None:
        _there("semantic, key 'model'", self.model or "")
        if self.similarity > 1:
            raise SourceError(f"semantic, key 'similarity': found {self.similarity}, expected a cosine between 0 and 1")
        for name in ("dimensions", "cluster", "sample"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise SourceError(
                    f"semantic, key {name!r}: found {getattr(self, name)!r}, expected a whole number of at least 1"
                )


@dataclass(frozen=True)
class Kinds:
    """model: a classifier with the classes general, code and reasoning (none: a rule)."""

    model: str | None = None

    def __post_init__(self) -> None:
        _there("kinds, key 'model'", self.model or "")


@dataclass(frozen=True)
class Quality:
    """model: a classifier's file or folder. threshold: least probability of the better class.
    kinds: model and threshold of code's and reasoning's own classifiers."""

    model: str = ""
    threshold: float = 0.5
    kinds: dict[str, dict] | None = None

    def __post_init__(self) -> None:
        _there("quality, key 'model'", self.model)
        for kind, given in (self.kinds or {}).items():
            _one_of("quality, key 'kinds'", kind, KINDS[1:])
            for key in given:
                _one_of(f"quality, key 'kinds', {kind}", key, ("model", "threshold"))
            _there(f"quality, key 'kinds', {kind}", given.get("model", ""))

    def of(self, kind: str) -> "Quality":
        """The options for pages of a kind."""
        return replace(self, **{"kinds": None} | (self.kinds or {}).get(kind, {}))


@dataclass(frozen=True)
class Topics:
    """model: a light classifier's file. targets: largest share of the tokens, by class."""

    model: str = ""
    targets: dict[str, float] | None = None

    def __post_init__(self) -> None:
        _there("topics, key 'model'", self.model)


@dataclass(frozen=True)
class Decontamination:
    files: tuple[str, ...] = ()
    ngrams: int = 13

    def __post_init__(self) -> None:
        for file in self.files:
            if Path(expand(file)).suffix:  # a Hub data set has none
                _there("decontamination, key 'files'", file)


@dataclass(frozen=True)
class Output:
    """format: parquet or jsonl.gz. documents: in a file at most."""

    format: str = "jsonl.gz"
    documents: int = 100_000

    def __post_init__(self) -> None:
        _one_of("output, key 'format'", self.format, ("jsonl.gz", "parquet"))


NEEDED = {Quality: "model", Topics: "model", Decontamination: "files"}


def options(cls: type[T], given: Any, name: str) -> T | None:
    """A step's options: none given or true for the defaults, false for a step left out, a mapping for the rest.

    Raises:
        SourceError: an unknown key or a value of another kind, by name.
    """
    if given is False:
        return None
    if given is None or given is True:
        return cls()
    if not isinstance(given, dict):
        raise SourceError(f"{name}: found {given!r}, expected true, false or a mapping")
    known = {field.name: field for field in fields(cls)}
    values = {}
    for key, value in given.items():
        if key not in known:
            raise SourceError(f"{name}, key {key!r}: unknown, known: {', '.join(known)}")
        default = known[key].default
        if isinstance(default, tuple):
            if not isinstance(value, list | tuple):
                raise SourceError(f"{name}, key {key!r}: found {value!r}, expected a list")
            value = tuple(value)
        elif isinstance(default, bool) != isinstance(value, bool) and default is not None:
            raise SourceError(f"{name}, key {key!r}: found {value!r}, expected {type(default).__name__}")
        elif isinstance(default, int | float) and value is not None and not isinstance(value, bool):
            if not is_number(value) or value < 0:
                raise SourceError(f"{name}, key {key!r}: found {value!r}, expected a number of at least 0")
        elif isinstance(default, str) and not isinstance(value, str):
            raise SourceError(f"{name}, key {key!r}: found {value!r}, expected text")
        values[key] = value
    if (needed := NEEDED.get(cls)) and not values.get(needed):
        raise SourceError(f"{name}, key {needed!r}: found nothing, expected it with {name}")
    return cls(**values)

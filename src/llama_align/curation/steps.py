"""Steps that look at one document at a time: pages to text, URLs, languages, heuristics, personal data.

Each is a datatrove step around functions of other files; what needs all documents is in `corpus_steps`.
"""

import resource
from functools import cache
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.extractors.base import BaseExtractor, ExtractorSandbox
from datatrove.pipeline.filters.url_filter import URLFilter

from ..data import SourceError
from ..data.opening import expand
from . import heuristics, kinds, language, pii, urls
from .classify import load
from .extract import PageError, extract
from .ledger import Rule, Tally, name_of
from .options import Extraction, Heuristics, Kinds, Languages, Personal, Urls
from .plain import plain
from .reading import sound

MEMORY = "out of memory"
FIRST = b"<html><body><p>What is loaded once is no page's time.</p></body></html>"  # for the sandbox's first call


class Extract(Rule, BaseExtractor):
    """Pages to text in a process of its own, which a time and a memory limit end; texts lose their Markdown."""

    def __init__(self, options: Extraction, folder: Path):
        Rule.__init__(self, "extract", folder)
        self.options, self.timeout = options, options.timeout

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with ExtractorSandbox(timeout=max(self.timeout, 60.0), warmup_text="") as self.sandbox:
            self.limited = _Limited(self.options.memory, self.options.comments)
            self.sandbox._ensure_process(self.limited)
            self.sandbox.timeout = self.timeout
            yield from Rule.run(self, data, rank, world_size)

    def extract(self, text: str) -> str:
        return extract(text, comments=self.options.comments)

    def judge(self, document: Document, tally: Tally) -> str | None:
        if isinstance(document.text, str):
            document.text = plain(document.text).replace("\0", "")
            return None if document.text.strip() else "no text"
        if not document.text:
            return "no HTML"
        try:
            text, reason = self.sandbox.process_document(document.text, self.limited)
        except TimeoutError:
            return "time limit"
        except (EOFError, ConnectionError):
            return "extractor died"
        document.text = sound(text)
        return reason


class _Limited:
    """`extract` with its memory bounded, its failures as reasons."""

    def __init__(self, memory: float, comments: bool):
        self.memory, self.comments, self.set = memory, comments, False

    def __call__(self, page: str | bytes) -> tuple[str, str | None]:
        if not self.set:
            pages_held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = pages_held + int(self.memory * (1 << 30))
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            self.set = True
        try:
            text = extract(page or FIRST, comments=self.comments)
        except PageError as error:
            return "", str(error)
        except MemoryError:
            return "", MEMORY
        except RecursionError:
            return "", "nested too deeply"
        except Exception as error:  # of lxml or trafilatura: a page must not end a run
            return "", f"extractor: {type(error).__name__}"
        return text, None if text.strip() else "no text"


@cache
def block_lists(integrated: bool, domains: tuple[str, ...], words: tuple[str, ...]) -> URLFilter:
    """datatrove's filter; its lists take seconds to load and are shared by all tasks of a process and its forks."""
    from tldextract import TLDExtract

    lists = URLFilter(extra_domains=set(domains), banned_words=set(words), use_integrated_lists=integrated)
    lists.tldextractor = TLDExtract(suffix_list_urls=(), cache_dir=None)  # no network
    lists.download_data()
    return lists


class Address(Rule):
    """URLs in one form, and the lists of domains and words: datatrove's and one's own."""

    def __init__(self, options: Urls, folder: Path):
        super().__init__("urls", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        self.lists = block_lists(self.options.lists, self.options.domains, self.options.words)

    def judge(self, document: Document, tally: Tally) -> str | None:
        url = document.metadata.get("url")
        if not url:
            return None
        try:
            document.metadata["key"] = urls.normalise(url)
        except ValueError:
            tally.changed["no URL of the web"] += 1
            del document.metadata["url"]
            return None
        document.metadata["domain"] = urls.domain(url)
        if document.metadata["domain"] in self.options.domains:
            return "block list: domain"
        verdict = self.lists.filter(document)
        return None if verdict is True else f"block list: {verdict[1]}"


class Language(Rule):
    def __init__(self, options: Languages, folder: Path):
        super().__init__("language", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        self.identify = language.fasttext(expand(self.options.model)) if self.options.model else language.identify

    def judge(self, document: Document, tally: Tally) -> str | None:
        code, probability = self.identify(document.text)
        document.metadata |= {"language": code, "scores": {"language": round(probability, 4)}}
        if self.options.keep and code not in self.options.keep:
            return f"language {code}"
        least = (self.options.thresholds or {}).get(code, self.options.default)
        return None if probability >= least else "language uncertain"


class Kind(Rule):
    """Says which kind of page each is, by a rule or a classifier; what follows may treat kinds differently."""

    def __init__(self, options: Kinds, folder: Path):
        super().__init__("kinds", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        self.kind_of = kinds.kind_of
        if self.options.model:
            classifier = load(expand(self.options.model))
            if unknown := sorted(set(classifier.classes) - set(kinds.KINDS)):
                known = ", ".join(kinds.KINDS)
                raise SourceError(f"{self.options.model}: found the class {unknown[0]!r}, expected some of {known}")
            self.kind_of = lambda text: classifier.labels([text])[0]

    def judge(self, document: Document, tally: Tally) -> str | None:
        kind = document.metadata["kind"] = self.kind_of(document.text)
        tally.changed[kind] += 1
        if kind != kinds.KINDS[0]:
            tally.example(kind, name_of(document), document.text)
        return None


class Looks(Rule):
    """Lengths, symbols, repetition, repeated lines and dirty words, with bounds for each kind of page."""

    def __init__(self, options: Heuristics, folder: Path):
        super().__init__("heuristics", folder)
        self.options = options
        self.of = {kind: options.of(kind) for kind in kinds.KINDS}
        known = heuristics.Lengths.__dataclass_fields__
        for of_kind in self.of.values():
            if unknown := sorted(set(of_kind.bounds) - set(known)):
                found = f"heuristics, key 'bounds': found {unknown[0]!r}"
                raise SourceError(f"{found}, expected some of {', '.join(known)}")
        self.bounds = {kind: heuristics.Lengths(**of_kind.bounds) for kind, of_kind in self.of.items()}
        missing = [path for path in map(expand, options.dirty_words) if not Path(path).is_file()]
        if missing:
            raise SourceError(f"heuristics, key 'dirty_words': found no file {missing[0]!r}, expected lists of words")
        self.dirty = heuristics.DirtyWords.read([expand(path) for path in options.dirty_words])

    def judge(self, document: Document, tally: Tally) -> str | None:
        text, scores = document.text, document.metadata.setdefault("scores", {})
        kind = document.metadata.get("kind", kinds.KINDS[0])
        options, english = self.of[kind], document.metadata.get("language", "en") == "en"
        if reason := heuristics.quality(text, self.bounds[kind], english):
            return reason
        if options.repetition and (reason := heuristics.repetition(text)):
            return reason
        if self.dirty.phrases:
            scores["dirty"] = round(self.dirty.ratio(text), 5)
            if scores["dirty"] > options.max_dirty:
                return "dirty words"
        if options.coverage:
            rest, gone, share = heuristics.without_repeated_lines(text, options.coverage)
            scores["repeated_lines"] = round(share, 4)
            if scores["repeated_lines"] > options.max_coverage:
                return "repeated n-grams by line"
            if gone:
                tally.changed["repeated line"] += len(gone)
                tally.example("repeated line", f"{name_of(document)}:{gone[0]}", gone[0])
                document.text = rest
        return None


class Pii(Rule):
    """Personal data replaced, or documents with too much of it dropped."""

    def __init__(self, options: Personal, folder: Path):
        super().__init__("pii", folder)
        self.options = options

    def judge(self, document: Document, tally: Tally) -> str | None:
        spans = [s for s in pii.find(document.text) if not self.options.kinds or s[2] in self.options.kinds]
        share = pii.share(document.text, spans)
        document.metadata.setdefault("scores", {})["pii"] = round(share, 5)
        if not spans:
            return None
        if self.options.action == "drop" and share >= self.options.max_share:
            return "personal data"
        for start, end, kind in spans:
            tally.changed[kind] += 1
            tally.example(kind, f"{document.id}:{start}", document.text[max(0, start - 40) : end + 40])
        document.text = pii.replace(document.text, spans)
        return None

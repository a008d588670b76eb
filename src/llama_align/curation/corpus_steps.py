"""Steps that need all documents: a first pass collects, one task decides, a next pass applies.

Decisions depend on documents and their places alone, never on which task held them.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.binaryio import read_tuples_from_file
from datatrove.utils.hashing import create_hash_func

from ..data import write_jsonl
from ..runtime.files import whole, write_json
from . import dedup, heuristics, urls
from .decontaminate import Contamination
from .files import Spill, load, partitions_of, read_rows, save
from .kinds import KINDS
from .ledger import Rule, Tally, name_of, total
from .options import Decontamination, Heuristics, Lines, MinHash, Urls
from .words import hash64


class Shards(PipelineStep):
    """Writes a task's documents, `<rank>.jsonl`, and passes them on; the file is there when the task is done."""

    type, name = "curation", "shards"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = Path(folder)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with whole(self.folder / f"{rank:05d}.jsonl") as file:
            for document in data:
                row = {"text": document.text, "id": document.id} | document.metadata
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                yield document


class Reread(PipelineStep):
    """A task's documents of the stage before."""

    type, name = "curation", "reread"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = Path(folder)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for row in read_rows(self.folder / f"{rank:05d}.jsonl"):
            yield Document(row.pop("text"), row.pop("id"), metadata=row)


class Collect(PipelineStep):
    """What the first decisions need: versions of URLs, shares by domain, how often each token occurs."""

    type, name = "curation", "collect"

    def __init__(self, folder: Path, tokens: bool):
        super().__init__()
        self.folder, self.tokens = Path(folder), tokens

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        versions = Spill(self.folder / "versions", rank, dedup.VERSION)
        domains = Spill(self.folder / "domains", rank, dedup.DOMAIN)
        histogram = np.zeros((len(KINDS), heuristics.BUCKETS), np.int64)
        for document in data:
            known = document.metadata
            if "key" in known:
                row = (hash64(known["key"]), urls.seconds(known.get("date")), known["place"])
                versions.add(np.array([row], dedup.VERSION))
                # shares in integers, so that the order of addition is of no account
                shares = [round(known.get("scores", {}).get(name, 0) * 1e5) for name in ("pii", "dirty")]
                domains.add(np.array([(hash64(known["domain"]), 1, *shares)], dedup.DOMAIN))
            if self.tokens:
                np.add.at(histogram[number_of(known)], heuristics.token_places(document.text), 1)
            yield document
        versions.flush()
        domains.flush()
        save(self.folder / "histogram" / f"{rank:05d}.npy", histogram)


class Decide(PipelineStep):
    """One task: which versions and domains go, and the corpus' tokens."""

    type, name = "curation", "decide"

    def __init__(self, folder: Path, options: Urls | None):
        super().__init__()
        self.folder, self.options = Path(folder), options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        versions = partitions_of(self.folder / "versions") if self.options and self.options.newest else []
        gone = [dedup.losers(load(partition)) for partition in versions]
        save(self.folder / "older.npy", np.sort(np.concatenate([np.zeros(0, np.uint64), *gone])))
        for name, limit in (("pii", "max_pii"), ("dirty", "max_dirty")):
            found = [np.zeros(0, np.uint64)]
            if self.options and (most := getattr(self.options, limit)) is not None:
                parts = map(load, partitions_of(self.folder / "domains"))
                found += [dedup.over(rows, name, most * 1e5, self.options.min_pages) for rows in parts]
            save(self.folder / f"domains-{name}.npy", np.sort(np.concatenate(found)))
        tables = [np.load(path, allow_pickle=False) for path in sorted((self.folder / "histogram").glob("*.npy"))]
        save(self.folder / "histogram.npy", sum(tables))


class Newest(Rule):
    """Drops older versions of a URL, and domains as a whole."""

    def __init__(self, decisions: Path, folder: Path):
        super().__init__("versions", folder)
        self.decisions = Path(decisions)

    def start(self, rank: int, world_size: int) -> None:
        self.older = np.load(self.decisions / "older.npy", allow_pickle=False)
        self.domains = {
            reason: np.load(self.decisions / f"domains-{name}.npy", allow_pickle=False)
            for name, reason in (("pii", "domain: personal data"), ("dirty", "domain: dirty words"))
        }

    def judge(self, document: Document, tally: Tally) -> str | None:
        if within(self.older, document.metadata["place"]):
            return "older version"
        if not document.metadata.get("domain"):
            return None
        domain = hash64(document.metadata["domain"])
        return next((reason for reason, gone in self.domains.items() if within(gone, domain)), None)


def within(places: np.ndarray, place: int) -> bool:
    at = np.searchsorted(places, np.uint64(place))
    return bool(at < len(places) and places[at] == place)


def number_of(known: dict) -> int:
    """Of the kind of a page, which has a distribution of tokens of its own."""
    return KINDS.index(known.get("kind", KINDS[0]))


class Divergence(Rule):
    """Measures each text's divergence from the corpus' texts of its kind; mean and deviation by kind and length."""

    def __init__(self, decisions: Path, folder: Path):
        super().__init__("divergence-measured", folder)
        self.decisions = Path(decisions)

    def start(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.corpus = np.load(self.decisions / "histogram.npy", allow_pickle=False)
        self.moments: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def judge(self, document: Document, tally: Tally) -> str | None:
        known = document.metadata
        value = round(heuristics.divergence(document.text, self.corpus[number_of(known)]), 4)
        known.setdefault("scores", {})["divergence"] = value
        known["alike"] = f"{number_of(known)} {heuristics.length_class(known['tokens'])}"
        whole_number = round(value * 1e4)  # sums of integers are the same in any order
        moments = self.moments[known["alike"]]
        moments[0] += 1
        moments[1] += whole_number
        moments[2] += whole_number**2
        return None

    def end(self) -> None:
        write_json(self.decisions / "moments" / f"{self.rank:05d}.json", self.moments)


class Outliers(Rule):
    """Drops texts whose tokens are too far from the corpus', and too near, for their length."""

    LEAST = 30  # texts of about one length that make a deviation worth anything

    def __init__(self, options: Heuristics, decisions: Path, folder: Path):
        super().__init__("divergence", folder)
        self.options, self.decisions = options, Path(decisions)

    def start(self, rank: int, world_size: int) -> None:
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for path in sorted((self.decisions / "moments").glob("*.json")):
            for alike, moments in json.loads(path.read_text()).items():
                sums[alike] = [a + b for a, b in zip(sums[alike], moments, strict=True)]
        self.normal = {}
        for alike, (count, first, second) in sums.items():
            mean = first / count / 1e4
            self.normal[alike] = (count, mean, max(second / count / 1e8 - mean**2, 0.0) ** 0.5)

    def judge(self, document: Document, tally: Tally) -> str | None:
        count, mean, deviation = self.normal[document.metadata.pop("alike")]
        if count < self.LEAST or deviation == 0:
            return None
        distance = (document.metadata["scores"]["divergence"] - mean) / deviation
        if distance > self.options.divergence:
            return "tokens unlike the corpus'"
        return "tokens too like the corpus'" if distance < -self.options.divergence else None


class Signatures(MinhashDedupSignature):
    """datatrove's first stage of MinHash on our words: digits count, and no tokenizer of one language is asked for."""

    def __init__(self, folder: Path, config: MinhashConfig):
        PipelineStep.__init__(self)
        from datatrove.io import get_datafolder

        self.output_folder, self.config = get_datafolder(str(folder)), config
        self.num_hashes = config.num_buckets * config.hashes_per_bucket
        self._parameters, self._hash_func = None, create_hash_func(config.hash_config)
        self.skip_existing_sigs = False

    def get_shingles(self, text: str) -> np.ndarray:
        return dedup.shingles(text, self.config.n_grams).reshape(-1, 1)


class Clusters(PipelineStep):
    """datatrove's third stage with what it lacks: Jaccard checked on candidates, the newest of a cluster kept."""

    type, name = "curation", "clusters"

    def __init__(self, pairs: Path, documents: Path, output: Path, options: MinHash):
        super().__init__()
        self.pairs, self.documents, self.output, self.options = Path(pairs), Path(documents), Path(output), options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        groups = dedup.clusters(self._pairs())
        known = self._found({node for group in groups for node in group})
        gone = []
        for group in groups:  # the newest first; of equal dates the first in order
            newest = sorted((known[node] for node in group), key=lambda found: (-found[1], found[0]))
            members = ((place, self._shingles(where)) for place, _, where in newest)
            gone += dedup.duplicates(members, self.options.jaccard)
        gone.sort()
        write_jsonl(self.output / "gone.jsonl", ({"place": p, "stays": s, "jaccard": round(j, 4)} for p, s, j in gone))
        save(self.output / "gone.npy", np.array([place for place, _, _ in gone], np.uint64))

    def _pairs(self):
        for path in sorted(self.pairs.glob("*.dups")):
            with open(path, "rb") as file:
                for rank_a, a, rank_b, b in read_tuples_from_file(file, "4I", lines_to_buffer=10_000):
                    yield rank_a << 32 | a, rank_b << 32 | b

    def _found(self, wanted: set[int]) -> dict[int, tuple[int, int, tuple[Path, int]]]:
        """Place, date and where it stands of each candidate, by one pass over the shards; no text is held."""
        known = {}
        for rank in sorted({node >> 32 for node in wanted}):
            path, at = self.documents / f"{rank:05d}.jsonl", 0
            with open(path, "rb") as file:
                for number, line in enumerate(file):
                    if (node := rank << 32 | number) in wanted:
                        row = json.loads(line)
                        known[node] = row["place"], urls.seconds(row.get("date")), (path, at)
                    at += len(line)
        return known

    def _shingles(self, where: tuple[Path, int]) -> np.ndarray:
        path, at = where
        with open(path, "rb") as file:
            file.seek(at)
            return dedup.shingles(json.loads(file.readline())["text"], self.options.ngrams)


class Unlike(Rule):
    """Drops the near duplicates that `Clusters` named."""

    def __init__(self, decisions: Path, folder: Path):
        super().__init__("minhash", folder)
        self.decisions = Path(decisions)

    def start(self, rank: int, world_size: int) -> None:
        self.gone = np.load(self.decisions / "gone.npy", allow_pickle=False)

    def judge(self, document: Document, tally: Tally) -> str | None:
        return "near duplicate" if within(self.gone, document.metadata["place"]) else None


class CountLines(PipelineStep):
    """Spills the hashes of all lines, counted within parts, to partitions on disk."""

    type, name = "curation", "count lines"

    def __init__(self, folder: Path, ledgers: Path, before: str, options: Lines):
        super().__init__()
        self.folder, self.ledgers, self.before, self.options = Path(folder), Path(ledgers), before, options

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        documents = total(self.ledgers, self.before).documents_out
        spill = Spill(self.folder / "lines", rank, dedup.LINE, self.options.partitions)
        for document in data:
            bucket = dedup.bucket_of(document.metadata["place"], documents, self.options.bucket)
            document.metadata["bucket"] = bucket
            spill.add(dedup.line_rows(dedup.line_hashes(document.text), bucket))
            yield document
        spill.flush()


class FrequentLines(PipelineStep):
    """One task: which lines occur too often, one partition in memory at a time."""

    type, name = "curation", "frequent lines"

    def __init__(self, folder: Path, options: Lines):
        super().__init__()
        self.folder, self.options = Path(folder), options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        parts = [dedup.frequent(load(part), self.options.limit) for part in partitions_of(self.folder / "lines")]
        rows = np.concatenate([np.zeros(0, dedup.LINE), *parts])
        for bucket in np.unique(rows["bucket"]):
            save(self.folder / f"frequent-{bucket:05d}.npy", np.sort(rows["hash"][rows["bucket"] == bucket]))


class RareLines(Rule):
    """Removes the lines `FrequentLines` named, every occurrence; a document of nothing else goes."""

    def __init__(self, decisions: Path, folder: Path):
        super().__init__("lines", folder)
        self.decisions = Path(decisions)

    def start(self, rank: int, world_size: int) -> None:
        self.drop: dict[int, np.ndarray] = {}

    def judge(self, document: Document, tally: Tally) -> str | None:
        bucket = document.metadata.pop("bucket")
        if bucket not in self.drop:
            path = self.decisions / f"frequent-{bucket:05d}.npy"
            self.drop[bucket] = np.load(path, allow_pickle=False) if path.is_file() else np.zeros(0, np.uint64)
        text, lines = dedup.without_lines(document.text, dedup.line_hashes(document.text), self.drop[bucket])
        if not lines:
            return None
        tally.changed["frequent line"] += len(lines)
        tally.example("frequent line", f"{name_of(document)}:{hash64(lines[0])}", lines[0])
        document.text = text
        return None if text.strip() else "nothing but frequent lines"


class Clean(Rule):
    """Drops documents that share n-grams with evaluation files, and lists them."""

    def __init__(self, options: Decontamination, folder: Path):
        super().__init__("decontamination", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        self.rank, self.found = rank, []
        self.known = Contamination(list(self.options.files), self.options.ngrams)

    def judge(self, document: Document, tally: Tally) -> str | None:
        hit = self.known.find(document.text)
        if hit is None:
            return None
        self.found.append({"document": name_of(document), "file": hit[0], "words": hit[1]})
        return f"shares words with {hit[0]}"

    def end(self) -> None:
        write_jsonl(self.folder / self.name / f"{self.rank:05d}.list", self.found)

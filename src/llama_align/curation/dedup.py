"""Which documents and lines go as duplicates: newest of a URL, newest of a cluster, lines seen too often.

Llama 3 (section 3.1.1): "URL-level", "document-level de-duplication. We perform global MinHash (Broder, 1997)
de-duplication across the entire dataset to remove near duplicate documents" and "line-level de-duplication. We perform
aggressive line-level de-duplication similar to ccNet. We remove lines that appeared more than 6 times in each bucket
of 30M documents."
"""

from collections.abc import Iterable

import numpy as np

from .words import hash64, hashes, ngrams, words

# hash of the URL or text, date in seconds, the document's place among all
VERSION = np.dtype([("hash", "<u8"), ("date", "<i8"), ("place", "<u8")])
# hash of the domain, its pages, the sums of their shares in 1/100,000
DOMAIN = np.dtype([("hash", "<u8"), ("pages", "<u8"), ("pii", "<u8"), ("dirty", "<u8")])
LINE = np.dtype([("hash", "<u8"), ("bucket", "<u4"), ("count", "<u4")])


def losers(versions: np.ndarray) -> np.ndarray:
    """Places of all but the newest of each hash; of equal dates the first in order stays."""
    if not len(versions):
        return np.zeros(0, np.uint64)
    newest_first = np.lexsort((versions["place"], -versions["date"], versions["hash"]))
    ordered = versions[newest_first]
    older = np.concatenate([[False], ordered["hash"][1:] == ordered["hash"][:-1]])
    return np.sort(ordered["place"][older])


def over(domains: np.ndarray, share: str, limit: float, pages: int) -> np.ndarray:
    """Hashes of the domains of at least so many pages whose mean share is above the limit."""
    found, where = np.unique(domains["hash"], return_inverse=True)
    sums = {name: np.zeros(len(found), np.uint64) for name in ("pages", share)}
    for name, total in sums.items():
        np.add.at(total, where, domains[name])
    return found[(sums["pages"] >= pages) & (sums[share] > limit * sums["pages"])]


def shingles(text: str, n: int = 5) -> np.ndarray:
    """Hashes of the n-grams of words, each once; of a text of fewer words the hash of all of them."""
    found = words(text)
    return np.unique(hashes(ngrams(found, n) if len(found) > n else [" ".join(found)]))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sorted sets of hashes."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)


def duplicates(members: Iterable[tuple[int, np.ndarray]], least: float) -> list[tuple[int, int, float]]:
    """(place that goes, place that stays, Jaccard) of a cluster of (place, shingles), what is to stay first.

    A member goes where it is like one that stays by at least `least`; candidates of one bucket need not all be alike.
    """
    kept: list[tuple[int, np.ndarray]] = []
    gone = []
    for place, found in members:
        alike = max(((jaccard(found, other), -of) for of, other in kept), default=(0.0, 0))
        if kept and alike[0] >= least:
            gone.append((place, -alike[1], alike[0]))
        else:
            kept.append((place, found))
    return gone


def clusters(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components, each sorted, in the order of their first members."""
    parents: dict[int, int] = {}

    def root(node: int) -> int:
        top = node
        while parents.setdefault(top, top) != top:
            top = parents[top]
        while parents[node] != top:
            parents[node], node = top, parents[node]
        return top

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parents[high] = low
    groups: dict[int, list[int]] = {}
    for node in sorted(parents):
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def line_hashes(text: str) -> np.ndarray:
    """One hash for each line; 0 for a line without words, which is none."""
    return np.fromiter((_line_hash(line) for line in text.splitlines()), np.uint64)


def _line_hash(line: str) -> int:
    found = words.__wrapped__(line)
    return hash64(" ".join(found)) | 1 if found else 0


def line_rows(found: np.ndarray, bucket: int) -> np.ndarray:
    """Rows of LINE for one text: a line that a text repeats counts each time."""
    hashes_, counts = np.unique(found[found != 0], return_counts=True)
    rows = np.empty(len(hashes_), LINE)
    rows["hash"], rows["bucket"], rows["count"] = hashes_, bucket, counts
    return rows


def frequent(rows: np.ndarray, limit: int) -> np.ndarray:
    """(hash, bucket, count) of lines seen more than `limit` times in a bucket, sorted."""
    if not len(rows):
        return rows
    ordered = rows[np.lexsort((rows["hash"], rows["bucket"]))]
    starts = np.flatnonzero(
        np.concatenate([[True], (np.diff(ordered["hash"]) != 0) | (np.diff(ordered["bucket"]) != 0)])
    )
    sums = np.add.reduceat(ordered["count"].astype(np.uint64), starts)
    out = ordered[starts][sums > limit]
    out["count"] = np.minimum(sums[sums > limit], np.iinfo(np.uint32).max)
    return out


def without_lines(text: str, found: np.ndarray, drop: np.ndarray) -> tuple[str, list[str]]:
    """The text less the lines whose hashes are in `drop`, which is sorted, and those lines."""
    if not len(drop) or not len(found):
        return text, []
    at = np.minimum(np.searchsorted(drop, found), len(drop) - 1)
    hit = drop[at] == found
    if not hit.any():
        return text, []
    lines = text.splitlines()
    kept = [line for line, gone in zip(lines, hit, strict=True) if not gone]
    return "\n".join(kept).strip("\n"), [line for line, gone in zip(lines, hit, strict=True) if gone]


def bucket_of(place: int, documents: int, size: int) -> int:
    """A document's bucket of about `size`: by a hash of its place, so that no order of tasks moves it."""
    return hash64(str(place)) % max(1, -(-documents // size))

"""Texts as vectors of their meaning, clusters of them, and which are far enough from what stays.

Llama 3 (section 4.2.3): "Semantic deduplication: [...] We first cluster these complete dialogs using RoBERTa [...] and
within each cluster sort them by quality score x difficulty score. We then do greedy selection by iterating through all
sorted examples, and only keeping the ones that have maximum cosine similarity less than a threshold to the examples
seen so far in the cluster." There it is for dialogs; SemDeDup (Abbas et al. 2023) does the same for pages.
"""

from pathlib import Path

import numpy as np

from .files import save

FEATURES = 1 << 16
CHARACTERS = 5000  # of a text that are read
TOKENS = 512  # of a text that a checkpoint reads


def hashed(texts: list[str]):
    """Sparse rows of hashed words and pairs of words, 1 + log of their counts."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, token_pattern=r"(?u)[^\W_]+|[^\w\s]", norm=None
    )
    rows = hashing.transform([text[:CHARACTERS] for text in texts])
    rows.data = 1 + np.log(rows.data)
    return rows


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one, in float32; a row of zeros stays one."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return (rows / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)


class Words:
    """Latent semantic analysis: hashed words and pairs weighted by how rare they are, the first singular directions."""

    def __init__(self, rarity: np.ndarray, directions: np.ndarray):
        self.rarity, self.directions = rarity, directions  # (features), (features, dimensions)

    @classmethod
    def fit(cls, texts: list[str], dimensions: int) -> "Words":
        from sklearn.decomposition import TruncatedSVD

        rows = hashed(texts)
        documents = np.bincount(rows.indices, minlength=FEATURES)
        rarity = np.log((1 + len(texts)) / (1 + documents)) + 1
        weighted = cls(rarity, np.zeros(0))._weighted(rows)
        most = min(dimensions, len(texts) - 1, int((documents > 0).sum()) - 1)
        if most < 1:
            return cls(rarity, np.zeros((FEATURES, 1)))
        return cls(rarity, TruncatedSVD(most, random_state=0).fit(weighted).components_.T)

    def _weighted(self, rows):
        from sklearn.preprocessing import normalize

        return normalize(rows.multiply(self.rarity).tocsr())

    def __call__(self, texts: list[str]) -> np.ndarray:
        """(texts, dimensions). A sparse product sums row by row, so that a text's vector depends on no other text."""
        return unit(self._weighted(hashed(texts)) @ self.directions)


class States:
    """The mean of a checkpoint's last hidden states over a text, one text at a time, so that no batch changes it."""

    def __init__(self, path: str):
        from transformers import AutoModel, AutoTokenizer

        from .. import models  # noqa: F401, makes LlamaHerd known

        self.model, self.tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
        self.most = min(TOKENS, self.model.config.max_position_embeddings)

    def __call__(self, texts: list[str]) -> np.ndarray:
        import torch

        found = []
        with torch.no_grad():
            for text in texts:
                ids = self.tokenizer(text[: 8 * self.most], add_special_tokens=False)["input_ids"][: self.most - 1]
                states = self.model(input_ids=torch.tensor([[self.tokenizer.bos_token_id, *ids]])).last_hidden_state
                found.append(states[0].float().mean(0).numpy())
        return np.stack(found)


def centres_of(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """(clusters, dimensions): mini-batch k-means on vectors of length one."""
    from sklearn.cluster import MiniBatchKMeans

    clusters = max(1, min(clusters, len(np.unique(vectors, axis=0))))
    found = MiniBatchKMeans(clusters, random_state=0, n_init=1, batch_size=4096).fit(vectors)
    return unit(found.cluster_centers_.astype(np.float64))


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The cluster of each vector. einsum and not BLAS: a row's sum is the same whatever rows are beside it."""
    return np.einsum("nd,kd->nk", vectors, centres).argmax(1)


def near(vectors: np.ndarray, similarity: float) -> list[tuple[int, int, float]]:
    """(number that goes, number that stays, cosine) of the vectors of a cluster, the best first.

    A vector goes that has a cosine of at least `similarity` with one that stays.
    """
    kept, stays, gone = np.empty_like(vectors), [], []
    for number, vector in enumerate(vectors):
        alike = kept[: len(stays)] @ vector
        best = int(alike.argmax()) if len(stays) else -1
        if best >= 0 and alike[best] >= similarity:
            gone.append((number, stays[best], float(alike[best])))
        else:
            kept[len(stays)] = vector
            stays.append(number)
    return gone


class Space:
    """Texts to vectors of length one about the mean of a sample, and the clusters they fall into.

    The mean is taken off since a checkpoint's states share one large direction, which makes any two texts alike.
    """

    def __init__(self, embed: Words | States, mean: np.ndarray, centres: np.ndarray):
        self.embed, self.mean, self.centres = embed, mean, centres

    @classmethod
    def fit(cls, texts: list[str], model: str | None, dimensions: int, clusters: int) -> "Space":
        """From a sample; a cluster has at least ten of its texts. model: a checkpoint (none: `Words`)."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # sums in one order, whatever the machine
            embed = States(model) if model else Words.fit(texts, dimensions)
            vectors = embed(texts).astype(np.float64)
            mean = vectors.mean(0)
            return cls(embed, mean, centres_of(unit(vectors - mean), min(clusters, len(texts) // 10)))

    def vectors(self, texts: list[str]) -> np.ndarray:
        """(texts, dimensions)."""
        return unit(self.embed(texts).astype(np.float64) - self.mean)

    def save(self, folder: Path) -> None:
        save(folder / "mean.npy", self.mean)
        save(folder / "centres.npy", self.centres)
        if isinstance(self.embed, Words):
            save(folder / "rarity.npy", self.embed.rarity)
            save(folder / "directions.npy", self.embed.directions)

    @classmethod
    def load(cls, folder: Path, model: str | None) -> "Space":
        def read(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", allow_pickle=False)

        embed = States(model) if model else Words(read("rarity"), read("directions"))
        return cls(embed, read("mean"), read("centres"))

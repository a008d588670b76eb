"""A light text classifier: hashed word n-grams and a linear model, trained in seconds, kept as numbers in safetensors.

Llama 3 (section 3.1.1): "we experiment with applying various model-based quality classifiers to sub-select high-quality
tokens. These include using fast classifiers such as fasttext [...] as well as more compute-intensive Roberta-based
classifiers".
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FEATURES = 1 << 18
CHARACTERS = 20_000  # of a text that are read


def features(texts: list[str], size: int = FEATURES):
    """Sparse rows of hashed word unigrams and bigrams, of length one."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        n_features=size, ngram_range=(1, 2), alternate_sign=False, token_pattern=r"(?u)[^\W_]+|[^\w\s]", norm="l2"
    )
    return hashing.transform([text[:CHARACTERS] for text in texts])


@dataclass
class Light:
    """Weights for each class; probabilities by the logistic function or softmax."""

    classes: list[str]
    weights: np.ndarray  # (classes, features)
    bias: np.ndarray

    @classmethod
    def train(cls, texts: list[str], labels: list[str], seed: int = 0, size: int = FEATURES) -> "Light":
        from sklearn.linear_model import LogisticRegression

        if len(set(labels)) < 2:
            raise ValueError(f"labels: found {sorted(set(labels))}, expected at least two classes")
        classes, rows = sorted(set(labels)), features(texts, size)
        found = []
        for name in classes[1:] if len(classes) == 2 else classes:  # each against the rest
            model = LogisticRegression(C=10.0, solver="liblinear", class_weight="balanced", random_state=seed)
            model.fit(rows, [label == name for label in labels])
            found.append((model.coef_[0], model.intercept_[0]))
        weights, bias = np.stack([w for w, _ in found]), np.array([b for _, b in found])
        if len(classes) == 2:
            weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(classes, weights.astype(np.float32), bias.astype(np.float32))

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(texts, classes)."""
        logits = features(texts, self.weights.shape[1]) @ self.weights.T + self.bias
        grown = np.exp(logits - logits.max(1, keepdims=True))
        return grown / grown.sum(1, keepdims=True)

    def labels(self, texts: list[str]) -> list[str]:
        return [self.classes[best] for best in self.probabilities(texts).argmax(1)]

    def save(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights, "bias": self.bias}, path, {"classes": json.dumps(self.classes)})

    @classmethod
    def load(cls, path: str | Path) -> "Light":
        try:
            with safe_open(path, "numpy") as file:
                return cls(json.loads(file.metadata()["classes"]), file.get_tensor("weights"), file.get_tensor("bias"))
        except Exception as error:
            raise ValueError(f"{path}: no light classifier ({error}), expected a file of `Light.save`") from error


def load(path: str | Path):
    """A classifier by its path: a folder is a heavy one, a file a light one."""
    if Path(path).is_dir():
        from .heavy import Heavy

        return Heavy.load(path)
    return Light.load(path)

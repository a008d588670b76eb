"""Experiments with data: sources read once, mixes of them written in shares of tokens, held-out losses by source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from ..data import DataSource, load_records, write_jsonl
from ..data.shares import shuffled_words, tokens_in_shares
from ..recipe import RecipeError, load_model, load_tokenizer
from ..recipe.bounds import shown
from ..runtime.progress import Task
from ..sampling.likelihood import negative_log_likelihood


@dataclass
class Sources:
    """Documents by source, to train on and held out. ids, texts: of training; heldout: ids; planted: of no value."""

    tokenizer: object
    texts: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, list[list[int]]] = field(default_factory=dict)
    heldout: dict[str, list[list[int]]] = field(default_factory=dict)

    @classmethod
    def read(cls, tokenizer: str, sources: Mapping[str, dict], planted: Mapping[str, str], heldout: float) -> Self:
        """Reads all sources.

        Args:
            sources: data sources by name. planted: name -> the source whose words it has in any order. heldout: share
                of each source's documents, by the digest of their text, that is only measured on.

        Raises:
            RecipeError: a source with a part of its own, an unknown one, or a name used twice.
        """
        found = cls(load_tokenizer(tokenizer, dialogs=False))
        for name, source in sources.items():
            parsed = DataSource.parse(source)
            if parsed.part is not None or parsed.weight is not None or parsed.repeat:
                raise RecipeError(
                    f"sources.{name}: found part, weight or repeat, expected none; the recipe sets shares"
                )
            train, measured = ([0.0, 1 - heldout], [1 - heldout, 1.0])
            found._add(name, [d.text for d in load_records([parsed.of_part(train)], "document")[0]])
            held = [d.text for d in load_records([parsed.of_part(measured)], "document")[0]]
            found.heldout[name] = found._encoded(held)
        for name, origin in planted.items():
            if origin not in sources or name in sources:
                raise RecipeError(f"planted.{name}: found {shown(origin)}, expected a source, and a name of none")
            found._add(name, [shuffled_words(text, 0) for text in found.texts[origin]])
        return found

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _add(self, name: str, texts: list[str]) -> None:
        self.texts[name], self.ids[name] = texts, self._encoded(texts)

    @property
    def tokens(self) -> dict[str, int]:
        """How many there are of each source."""
        return {name: sum(map(len, documents)) for name, documents in self.ids.items()}

    def write(self, path: Path, shares: Mapping[str, float], tokens: int, seed: int | str) -> str:
        """Writes a mix of so many tokens, of which begin and end of documents are none; returns its path."""
        rows = []
        for name, number, taken in tokens_in_shares(self.ids, shares, tokens, str(seed)):
            whole = taken == len(self.ids[name][number])
            text = self.texts[name][number] if whole else self.tokenizer.decode(self.ids[name][number][:taken])
            rows.append({"text": text, "source": name})
        write_jsonl(path, rows)
        return str(path)

    def losses(
        self, checkpoints: Sequence[Path], targets: Sequence[str], context: int, most: int = 40_000
    ) -> np.ndarray:
        """Held-out losses [checkpoints, targets], nats a token, on the first `most` tokens of each target."""
        with Task(len(checkpoints), "run measured") as task:
            return np.array([self._losses(one, targets, context, most) for one in task.counting(checkpoints)])

    def _losses(self, checkpoint: Path, targets: Sequence[str], context: int, most: int) -> list[float]:
        model = load_model(str(checkpoint))
        found = []
        for name in targets:
            rows, left = [], most
            for ids in self.heldout[name]:
                pieces = [ids[i : i + context] for i in range(0, min(len(ids), left), context)]
                rows += [piece for piece in pieces if len(piece) > 1]
                left -= len(ids)
                if left <= 0:
                    break
            nll, tokens = negative_log_likelihood(model, rows)
            found.append(sum(nll) / sum(tokens))
        return found

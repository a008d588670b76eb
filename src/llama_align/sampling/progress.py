"""The bar that engines show while they answer."""

from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from .engine import Answer


class Progress:
    """A bar over answers with tokens per second, as a context; silent unless `shown`."""

    def __init__(self, total: int, shown: bool):
        self._bar = tqdm(total=total, unit="answer", disable=not shown)
        self._shown, self._tokens = shown, 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()

    def add(self, answers: Sequence[Answer]) -> None:
        """Counts answers that are complete."""
        self._tokens += sum(len(answer.ids) for answer in answers)
        self._bar.update(len(answers))
        elapsed = self._bar.format_dict["elapsed"] if self._shown else 0
        if elapsed:
            self._bar.set_postfix_str(f"{self._tokens / elapsed:.0f} tokens/s", refresh=False)

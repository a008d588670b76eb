"""How far an engine is with its answers."""

from collections.abc import Sequence
from types import TracebackType

from ..runtime.progress import SPEED, Task
from .engine import Answer


class Progress:
    """Answers with tokens per second, as a context; silent unless `shown`."""

    def __init__(self, total: int, shown: bool):
        self._task, self._tokens = Task(total, "answer", shown), 0

    def __enter__(self) -> "Progress":
        self._task.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._task.__exit__(*error)

    def add(self, answers: Sequence[Answer]) -> None:
        """Counts answers that are complete."""
        self._tokens += sum(len(answer.ids) for answer in answers)
        seconds = self._task.seconds
        self._task.add(len(answers), **({SPEED: self._tokens / seconds} if seconds else {}))

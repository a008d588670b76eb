"""What was left out, with how many and the option that would change it, in the words of prints and errors."""

from collections.abc import Iterable, Mapping

from .records import RecordError


class TooLong(int):
    """How many were left out as too long; knows the limit and the longest."""

    limit: int
    longest: int

    @classmethod
    def of(cls, lengths: Iterable[int], limit: int, count: int | None = None) -> "TooLong":
        """Counts the lengths above the limit, unless the count is known to be another."""
        above = [length for length in lengths if length > limit]
        count = cls(len(above) if count is None else count)
        count.limit, count.longest = limit, max(above, default=0)
        return count

    def reason(self, key: str) -> str:
        """Why they were left out; `key` is the option to change."""
        return f"longer than {self.limit} tokens" + (f", the longest {self.longest} ({key})" if self else "")


def none_left(what: str, reasons: Mapping[str, int]) -> RecordError:
    """The error of a list of which nothing is left: every reason with how many it took."""
    said = "; ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return RecordError(f"{what}s", None, f"no {what} left of {sum(reasons.values())}: {said or 'none given'}", "some")

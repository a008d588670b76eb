"""One source of records as a YAML names it: where its rows are, what they mean, which to take.

Knows the options and what their values may be; `opening` finds the rows and `reading` makes the records.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from .formats import NAMES
from .records import GRADES, KINDS, OBJECTIVES, RecordError, SourceError, is_number, show

FORMATS = ("auto", "records", "trl", "hh", "scores", "columns", "alpaca", "sharegpt", "ultrafeedback", "tokens")
OF_TOKENS = ("path", "name", "split", "format", "columns", "weight", "repeat", "epochs")  # read with format: tokens


@dataclass(frozen=True)
class DataSource:
    """A source as a YAML names it. docs/your_own_data.md has an example of every option and every format.

    path: a .jsonl, .json or .parquet file, the first two also with .gz or .xz, a directory saved by `datasets`, or a
        Hub data set; `$NAME`, `${NAME}` and `${NAME:-default}` are replaced from the environment.
    name: how reports call it (default: the file's name); split: of a saved directory or Hub data set.
    kind: what its rows are, where that is not what is asked for (preferences can serve as prompts, say).
    format: auto looks at the first row; tokens: a folder saved by `datasets` with a column of ids (pretraining).
    columns: name of a record's field -> column, or template such as "{context}\\n\\n{question}".
    grades: {column: {value: grade}} or {column: {grade: least value}}; `score_gap` is score_chosen - score_rejected.
    ignore: columns that are not ours, though they have the name of a field, or nearly.
    default_grade, objective: for rows that do not say.
    where: column -> the value, or list of values, a row must have.
    part: [from, to], the records whose prompt falls there in [0, 1) by `splits.place`: [0, 0.8] and [0.8, 1] share no
        prompt, in whatever files they are.
    limit: the first so many that fit; max_chars: longer records are left out.
    weight: share of the mixture; repeat: whether it may be read more than once to fill its share; epochs: how often at
        most.
    skip: "error", or "count" to leave out rows that do not fit and count them by reason.
    """

    path: str
    name: str | None = None
    split: str = "train"
    kind: str = "auto"
    format: str = "auto"
    columns: dict[str, str] | None = None
    ignore: list[str] | None = None
    grades: dict[str, dict] | None = None
    default_grade: str | None = None
    objective: str | None = None
    where: dict[str, Any] | None = None
    part: list[float] | None = None
    limit: int | None = None
    weight: float | None = None
    repeat: bool = False
    epochs: float | None = None
    max_chars: int | None = None
    skip: str = "error"

    @classmethod
    def parse(cls, value: "DataSource | dict | str") -> Self:
        """The source a YAML names, by a path alone or with options. Raises SourceError for what it does not know."""
        if isinstance(value, cls):
            return value
        value = {"path": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise SourceError(f"data source: found {show(value)}, expected a path or an object with a path")
        known = [f.name for f in fields(cls)]
        if unknown := [key for key in value if key not in known]:
            raise SourceError(f"data source {value.get('path')}: unknown key '{unknown[0]}', known: {', '.join(known)}")
        if not isinstance(value.get("path"), str):
            raise SourceError(f"data source: found {show(value.get('path'))} as path, expected text")
        return cls(**value)

    def of_part(self, part: list[float]) -> Self:
        """The same source, its prompts in another part."""
        return replace(self, part=list(part))

    def __post_init__(self) -> None:
        self._need("path", self.path.strip(), "a file, a folder or a name on the Hub")
        self._need("kind", self.kind in ("auto", *KINDS), f"auto or one of {', '.join(KINDS)}")
        self._need("format", self.format in FORMATS, f"one of {', '.join(FORMATS)}")
        self._need("skip", self.skip in ("error", "count"), "error or count")
        self._need("objective", self.objective in (None, *OBJECTIVES), f"one of {', '.join(OBJECTIVES)}")
        self._need("default_grade", self.default_grade in (None, *GRADES), f"one of {', '.join(GRADES)}")
        for name in ("limit", "max_chars"):
            number = getattr(self, name)
            self._need(name, number is None or (type(number) is int and number > 0), "an integer above 0")
        bounds = self.part
        fits = bounds is None or (
            isinstance(bounds, list)
            and len(bounds) == 2
            and all(map(is_number, bounds))
            and 0 <= bounds[0] < bounds[1] <= 1
        )
        self._need("part", fits, "two numbers, from and to, with 0 <= from < to <= 1")
        for name in ("weight", "epochs"):
            number = getattr(self, name)
            self._need(name, number is None or (is_number(number) and number > 0), "a number above 0")
        self._need("epochs", self.epochs is None or not self.repeat, "none beside repeat: true")
        for name in ("columns", "grades", "where"):
            self._need(name, isinstance(getattr(self, name), dict | None), "an object")
        self._need("columns", all(isinstance(c, str) for c in (self.columns or {}).values()), "names of columns")
        names = self.ignore or []
        self._need("ignore", isinstance(names, list) and all(isinstance(n, str) for n in names), "names of columns")
        names = ("ids",) if self.format == "tokens" else NAMES
        strange = [name for name in self.columns or () if name not in names]
        self._need("columns", not strange, f"fields among {', '.join(names)}, not '{', '.join(strange)}'")
        for field in fields(self) if self.format == "tokens" else ():
            taken = field.name in OF_TOKENS or getattr(self, field.name) == field.default
            self._need(field.name, taken, "none with format: tokens, whose rows are taken as they are")
        self._need("columns", self.format != "columns" or self.columns, "a mapping of fields to columns")
        tables = list((self.grades or {}).values())
        self._need("grades", not tables or (len(tables) == 1 and _is_table(tables[0])), "one column with its table")

    def _need(self, key: str, fits: Any, expected: str) -> None:
        if not fits:
            raise SourceError(
                f"data source {self.path}, key '{key}': found {show(getattr(self, key))}, expected {expected}"
            )

    @property
    def most_epochs(self) -> float:
        """How often the source may be read: `epochs`, without end with `repeat`, else once."""
        return self.epochs or (math.inf if self.repeat else 1.0)

    @property
    def label(self) -> str:
        """The name reports use: `name`, or the file's name without its endings."""
        return self.name or Path(self.path).name.split(".")[0]

    def grade(self, row: dict, where: str) -> str | None:
        """The grade that `grades` gives the row, None when the row does not say. Raises RecordError for a bad value."""
        if not self.grades:
            return None
        ((column, table),) = self.grades.items()
        if column == "score_gap" and column not in row:
            value = _number(row, "score_chosen", where) - _number(row, "score_rejected", where)
        else:
            value = row.get(column)
        if value is None:
            return None
        if set(table.values()) <= set(GRADES):
            grades = {str(key): grade for key, grade in table.items()}  # keys from a command line are text
            key = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            if key not in grades:
                raise RecordError(where, column, show(value), f"one of {', '.join(grades)}")
            return grades[key]
        value = _number(row | {column: value}, column, where)
        reached = [grade for grade, least in table.items() if value >= least]
        if not reached:
            raise RecordError(where, column, show(value), f"at least {min(table.values())}")
        return max(reached, key=table.__getitem__)


def _is_table(table: Any) -> bool:
    if not isinstance(table, dict) or not table:
        return False
    return set(map(str, table.values())) <= set(GRADES) or (
        set(table) <= set(GRADES) and all(is_number(least) for least in table.values())
    )


def _number(row: dict, column: str, where: str) -> float:
    value = row.get(column)
    if not is_number(value):
        raise RecordError(where, column, show(value), "a number")
    return value

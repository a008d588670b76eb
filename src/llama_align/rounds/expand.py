"""Rounds written out: a block that is repeated becomes its steps of every round, `best` becomes `best-1`, `best-2`, ...

Nothing is read or looked up here but the plan itself. Within a block

    {name}            that step of this round, behind which this one stands, or a step outside
    {name@previous}   that of the round before; in round 1 what `start` of the block says
    {name@all}        all made so far, the start first: the item of a list that holds it is repeated for each, as is the
                      entry of a mapping, under its key and the round's number; a text alone becomes a list
    {round}           the number of the round

and behind it {name@last}, {name@all} or a step by its full name, {name-3}. The best model so far needs no notation: a
step that chooses among `{best@previous}` and what its round has made leaves it, whatever it chose.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .references import COLUMNS, found_in, replaced, texts
from .steps import ROUND, PlanError, Repeat, Step

ALL, PREVIOUS, LAST = "all", "previous", "last"


def expand(rows: Sequence[Step | Repeat]) -> list[Step]:
    """The steps of a plan in the order in which they are run.

    Raises:
        PlanError: a name used twice, or a reference to what is not made before the step that has it.
    """
    scope, steps = _Scope(), []
    for row in rows:
        if isinstance(row, Step):
            steps.append(scope.written_out(row, row.set))
            scope.add(row.name, row)
        else:
            steps += scope.rounds_of(row)
    return steps


@dataclass
class _Scope:
    """What is made so far. made: of a repeated step what stands for it, by round. block: the one written out now."""

    names: set[str] = field(default_factory=set)
    made: dict[str, dict[int, str]] = field(default_factory=dict)
    block: set[str] = field(default_factory=set)
    round: int | None = None

    def add(self, name: str, step: Step) -> None:
        if name in self.names or name in self.made:
            raise PlanError(f"{step.where('name')}: found the name twice, expected names that differ")
        self.names.add(name)

    def rounds_of(self, repeat: Repeat) -> Iterator[Step]:
        """The steps of a block, round by round."""
        for name, text in repeat.start.items():
            self._check(text, repeat.where("start", name))
        for one in repeat.steps:
            self.add(one.step.name, one.step)
        self.block = {one.step.name for one in repeat.steps}
        self.names -= self.block  # alone they name nothing but this round's
        self.made |= {name: {0: repeat.start[name]} if name in repeat.start else {} for name in self.block}
        for self.round in range(1, repeat.rounds + 1):
            for one in repeat.steps:
                if self.round in one.rounds:
                    yield self._of_round(one.step, one.later)
        self.round, self.block = None, set()

    def _of_round(self, step: Step, later: dict[int, dict[str, Any]]) -> Step:
        options, places = dict(step.set), {}
        for start, others in later.items():
            if start <= self.round:
                options |= others
                places |= dict.fromkeys(others, ("from", str(start)))
        name = f"{step.name}-{self.round}"
        full = replace(step, name=name, of=step.name, round=self.round, places=places)
        done = self.written_out(full, options)
        if name in self.names:
            raise PlanError(f"{step.where('name')}: found {name!r} twice, expected names that differ")
        self.names.add(name)
        self.made[step.name][self.round] = f"{{{name}}}"
        return done

    def written_out(self, step: Step, options: dict[str, Any]) -> Step:
        """A step with every reference in its options to one step each."""
        for option, value in options.items():
            for keys, text in texts(value):
                self._check(text, step.where_option(option, *keys))
        return replace(step, set={key: self._option(step, key, value) for key, value in options.items()})

    def _option(self, step: Step, option: str, value: Any) -> Any:
        if isinstance(value, str) and self._repeats(value):
            return [made for _, made in self._each(value, step.where_option(option))]
        if isinstance(value, dict):
            return dict(self._entries(step, value, option))
        return self._value(step, value, (option,))

    def _entries(self, step: Step, table: dict, *keys: Any) -> Iterator[tuple[Any, Any]]:
        for key, value in table.items():
            if key == COLUMNS:
                yield key, value
            elif isinstance(value, str) and self._repeats(value):
                for number, made in self._each(value, step.where_option(*keys, key)):
                    yield f"{key}-{number}", made
            else:
                yield key, self._value(step, value, (*keys, key))

    def _value(self, step: Step, value: Any, keys: tuple) -> Any:
        if isinstance(value, list):
            return [made for n, item in enumerate(value) for made in self._items(step, item, (*keys, n))]
        if isinstance(value, dict):
            return dict(self._entries(step, value, *keys))
        return self._one(value)

    def _items(self, step: Step, item: Any, keys: tuple) -> Iterator[Any]:
        if self._repeats(item) and not self._repeats_within(item):
            yield from (made for _, made in self._each(item, step.where_option(*keys)))
        else:
            yield self._value(step, item, keys)

    def _repeats(self, value: Any) -> bool:
        return any(which == ALL for _, text in texts(value) for _, which in found_in(text))

    def _repeats_within(self, value: Any) -> bool:
        """Whether a list lies within whose items are what is repeated."""
        if isinstance(value, dict):
            return any(self._repeats_within(item) for key, item in value.items() if key != COLUMNS)
        return isinstance(value, list) and self._repeats(value)

    def _each(self, value: Any, where: str) -> Iterator[tuple[int, Any]]:
        """A value once for every round so far of the one step it names all of."""
        names = sorted({name for _, text in texts(value) for name, which in found_in(text) if which == ALL})
        if len(names) > 1:
            both = " and ".join(f"{{{name}@{ALL}}}" for name in names)
            raise PlanError(f"{where}: found {both} in one value, expected all rounds of one step")
        for number, made in self.made[names[0]].items():
            yield number, self._one(replaced(value, lambda match, made=made: made if match[2] == ALL else match[0]))

    def _one(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key == COLUMNS else self._one(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._one(item) for item in value]
        if value == f"{{{ROUND}}}" and self.round is not None:
            return self.round
        return replaced(value, lambda match: self._target(match[1], match[2]))

    def _target(self, name: str, which: str | None) -> str:
        if name == ROUND and self.round is not None and not which:
            return str(self.round)
        if which == PREVIOUS:
            return self.made[name][self.round - 1]
        if which == LAST:
            return list(self.made[name].values())[-1]
        return self.made[name][self.round] if name in self.block else f"{{{name}}}"

    def _check(self, text: str, where: str) -> None:
        for name, which in found_in(text):
            if problem := self._problem(name, which):
                found = f"{{{name}@{which}}}" if which else f"{{{name}}}"
                raise PlanError(f"{where}: found {found}, {problem}")

    def _problem(self, name: str, which: str) -> str | None:
        """Why a reference names nothing that is made by now."""
        if which not in ("", ALL, PREVIOUS, LAST):
            return f"expected {ALL}, {PREVIOUS} or {LAST} behind @"
        if which and name not in self.made:
            return "expected the name of a step that is repeated, here or before"
        if which == PREVIOUS:
            if name not in self.block:
                return f"expected it within the block of {name}; behind it {{{name}@{LAST}}} is that of its last round"
            if self.round - 1 not in self.made[name]:
                before = "start of the block says nothing of it" if self.round == 1 else "it had no part in that round"
                return f"but in round {self.round} there is none before: {before}"
        if which == LAST and (name in self.block or not self.made[name]):
            return f"expected it behind the block of {name}; within it {{{name}}} and {{{name}@{PREVIOUS}}} are known"
        if which or (name == ROUND and self.round is not None):
            return None
        if name in self.block:
            later = f"{{{name}@{PREVIOUS}}} for that of the round before"
            return (
                None if self.round in self.made[name] else f"expected a step before this one in its round, or {later}"
            )
        if name in self.made:
            return f"a step that is repeated, expected {{{name}@{LAST}}}, {{{name}@{ALL}}} or {{{name}-1}}"
        return None if name in self.names else "expected the name of an earlier step"

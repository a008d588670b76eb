"""The processes of one launch that share a list of work, with results that do not depend on how many they are."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)  # one process may still sample while the others have nothing left to do


@dataclass(frozen=True)
class Group:
    """This process among `count`; one that is alone waits for nobody."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.index == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This process's part of a list that all of them hold alike."""
        return work[self.index :: self.count]

    def joined(self, part: Sequence[T]) -> list[T]:
        """The list whose `share` every process has worked on, from the results of all, on each of them."""
        if self.count == 1:
            return list(part)
        parts = gather_object([list(part)])
        found: list = [None] * sum(map(len, parts))
        for index, of_process in enumerate(parts):
            found[index :: self.count] = of_process
        return found

    def heard(self, said: Any = None) -> Any:
        """What the main process says, on every process."""
        if self.count == 1:
            return said
        said = [said]
        broadcast_object_list(said)
        return said[0]

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What is printed within comes from the main process only."""
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if self.is_main else nowhere):
            yield


ALONE = Group()


def join() -> Group:
    """The group of this launch: `accelerate launch` starts several processes, `python` one.

    Raises:
        ValueError: several processes were started but found no way to each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched == 1:
        return ALONE
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    if state.num_processes != launched:
        raise ValueError(f"launch: found {state.num_processes} of {launched} processes in one group, expected all")
    return Group(state.process_index, state.num_processes)

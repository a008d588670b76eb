"""The processes of one launch that share a list of work, with results that do not depend on how many they are."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState

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

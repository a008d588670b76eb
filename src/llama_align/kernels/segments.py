"""What the tokens of a row see: packed documents, and answers that share a prompt.

Every segment sees itself causally and, if it has a parent, all of the parent. Documents have no parent; the answers to
a prompt have the prompt as theirs, so that it stands in the row once.

Shape suffixes: B rows, T tokens of a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch

ROOT = -1


@dataclass(frozen=True)
class Segments:
    """Lengths of the segments of a batch, row after row, and the index of each one's parent (`ROOT`: none).

    Raises:
        ValueError: an empty segment, or children that do not directly follow their parent, a root.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self):
        if len(self.lengths) != len(self.parents) or not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"segments: found lengths {self.lengths}, expected one length above 0 for each parent")
        root = ROOT
        for child, parent in enumerate(self.parents):
            root = child if parent == ROOT else root
            if parent not in (ROOT, root):
                raise ValueError(f"segments: found parent {parent} of segment {child}, expected the root before it")

    @classmethod
    def documents(cls, lengths: Iterable[int]) -> "Segments":
        """Documents that never see each other."""
        lengths = tuple(lengths)
        return cls(lengths, (ROOT,) * len(lengths))

    @classmethod
    def groups(cls, groups: Iterable[tuple[int, Sequence[int]]]) -> "Segments":
        """Prompts, each followed by its answers: (length of the prompt, lengths of the answers)."""
        lengths, parents = [], []
        for prompt, answers in groups:
            parent = len(lengths)
            lengths += [prompt, *answers]
            parents += [ROOT, *[parent] * len(answers)]
        return cls(tuple(lengths), tuple(parents))

    @classmethod
    def of_positions(cls, position_ids_BT: torch.Tensor) -> "Segments":
        """Documents begin where a row begins and where positions do not follow each other."""
        starts_BT = torch.ones_like(position_ids_BT, dtype=torch.bool)
        starts_BT[:, 1:] = position_ids_BT.diff(dim=-1) != 1
        starts = [*starts_BT.flatten().nonzero().squeeze(1).tolist(), position_ids_BT.numel()]
        return cls.documents(end - start for start, end in pairwise(starts))

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First token of every segment in the flattened batch."""
        return (0, *accumulate(self.lengths[:-1]))

    def positions(self) -> torch.Tensor:
        """Position of every token [T]: a child's go on where its parent's end."""
        first = (0 if parent == ROOT else self.lengths[parent] for parent in self.parents)
        return torch.cat([torch.arange(at, at + n) for at, n in zip(first, self.lengths, strict=True)])

    def mask(self, rows: int = 1) -> torch.Tensor:
        """The dense mask [rows, 1, T, T] that attention here does without; True where a query sees a key.

        Raises:
            ValueError: a segment that reaches over the end of a row.
        """
        segment = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        parent = torch.tensor(self.parents)[segment]
        if self.total % rows or (segment.view(rows, -1)[1:, 0] == segment.view(rows, -1)[:-1, -1]).any():
            raise ValueError(f"segments: found lengths {self.lengths}, expected them to fill {rows} equal rows")
        segment, parent = segment.view(rows, 1, -1), parent.view(rows, 1, -1)
        own = (segment[..., :, None] == segment[..., None, :]).tril()
        return own | (parent[..., :, None] == segment[..., None, :])

    @cached_property
    def families(self) -> tuple[range, ...]:
        """The segments of every root and its children, which see nothing else."""
        roots = [*(i for i, parent in enumerate(self.parents) if parent == ROOT), len(self.parents)]
        return tuple(range(first, end) for first, end in pairwise(roots))

    def tokens(self, segment: int) -> slice:
        """Where a segment stands in the flattened batch."""
        return slice(self.starts[segment], self.starts[segment] + self.lengths[segment])

"""Which row stands where, as functions of numbers: nothing is made beforehand, kept or stored.

Knows integers alone; nothing of tokens or files.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

ROUNDS = 4  # of the Feistel network: enough for a pseudorandom permutation (Luby and Rackoff, 1988)


def drawn(key: str) -> int:
    """64 bits that are a function of the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def permuted(index: int, size: int, key: str) -> int:
    """Where a permutation of 0 .. size - 1, named by the key, takes an index.

    A Feistel network permutes the next power of four; what falls outside is permuted again until it falls within (cycle
    walking: Black and Rogaway, 2002), at most four times on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (drawn(f"{key}/{number}/{right}") & mask)
        index = left << half | right
        if index < size:
            return index


def whole_shares(shares: Sequence[float]) -> tuple[int, ...]:
    """The least whole numbers in the ratio of the shares as they are written: 0.5 and 0.25 are 2 and 1."""
    exact = [Fraction(str(share)) for share in shares]
    common = math.lcm(*(share.denominator for share in exact))
    whole = [int(share * common) for share in exact]
    least = math.gcd(*whole) or 1
    return tuple(share // least for share in whole)


def shared_out(rows: int, shares: Sequence[int]) -> list[int]:
    """How many of the first `rows` rows are each source's.

    The first source has its share of them, rounded, the next its share of the rest, and so on. With one row more one
    source has one row more, so that differences say whose a row is; a number is about a row from its share at most.
    """
    total, found = sum(shares), []
    for share in shares[:-1]:
        mine = (2 * rows * share + total) // (2 * total) if total else 0
        found.append(mine)
        rows, total = rows - mine, total - share
    return [*found, rows]


@dataclass(frozen=True)
class Blocks:
    """A source of `tokens` tokens in blocks of `block`, in an order of its own in every epoch.

    Rows of it are numbered on through all epochs. `name` is the source's, which with the seed names its order.
    """

    name: str
    tokens: int
    block: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Blocks of an epoch."""
        return self.tokens // self.block

    def place(self, number: int, length: int, first: int, end: int) -> tuple[int, int]:
        """Epoch and first token of row `number`, where a stage reads rows `first` to `end` of `length` tokens."""
        parts = self.block // length
        rows = self.per_epoch * parts
        epoch, key = number // rows, f"{self.seed}/{self.name}"
        # rows are parts of blocks, whose other parts would be near in the same batch
        low, high = max(first, epoch * rows), min(end, (epoch + 1) * rows)
        within = low + permuted(number - low, high - low, f"{key}/{length}/{first}/{epoch}") - epoch * rows
        block = permuted(within // parts, self.per_epoch, f"{key}/{epoch}")
        # a source is not a whole number of blocks: what is left over is another part in every epoch
        offset = drawn(f"{key}/{epoch}/offset") % (self.tokens - self.per_epoch * self.block + 1)
        return epoch, offset + block * self.block + within % parts * length

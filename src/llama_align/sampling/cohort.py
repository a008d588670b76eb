"""A cohort: prompts of about one length that were prefilled together, and their answers under way.

The keys and values of a prompt are stored once and shared by its answers; what an answer adds goes into a suffix that
grows some tokens at a time, so that it is always one contiguous block per layer. All answers of a cohort have the same
number of tokens. An answer that ends is replaced by the last one; when half the rows are gone, and when the suffix
grows, their memory is given back.

Suffixes: B prompts, R rows (answers), P padded prompt length, T new tokens, J key-value heads, G queries per such head,
K size of a head, M slots for answers per prompt, Y layers, C tokens a suffix has memory for, 2 keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attend, merge
from .engine import Answer

GROWTH = 32  # tokens by which suffixes grow: fewer are copied too often, more are computed for nothing


@dataclass(frozen=True)
class Job:
    """Answers `first` to `first + count - 1` of one prompt."""

    prompt: int
    ids: Sequence[int]
    first: int
    count: int

    def cached_tokens(self, max_new_tokens: int) -> int:
        return len(self.ids) + self.count * max_new_tokens


class Cohort:
    """The state of some jobs between two decoding steps.

    Args:
        jobs: what to answer, longest prompt first.
        prefix_2YBJPK: keys and values of the prompts, zeros after the end of each.
        hidden_BD: last hidden state of each prompt's last token.
        streams_R: one random stream per answer, see `streams`.
    """

    def __init__(self, jobs: Sequence[Job], prefix_2YBJPK: Tensor, hidden_BD: Tensor, streams_R: Tensor, max_new: int):
        device, (_, layers, _, heads, longest, size) = prefix_2YBJPK.device, prefix_2YBJPK.shape
        counts_B = torch.tensor([job.count for job in jobs], device=device)
        self.lengths_B = torch.tensor([len(job.ids) for job in jobs], device=device)
        # padded with an id of the prompt itself, which a repetition penalty has seen anyway
        padded = [torch.tensor([*job.ids, *[job.ids[0]] * (longest - len(job.ids))]) for job in jobs]
        self.prompts_BP = torch.stack(padded).to(device)
        self.prefix_2YBJPK = prefix_2YBJPK
        self.owners = [(job.prompt, job.first + i) for job in jobs for i in range(job.count)]
        self.prompt_R = torch.repeat_interleave(torch.arange(len(jobs), device=device), counts_B)
        self.streams_R = streams_R
        self._rows = rows = len(self.owners)
        self._keys = [prefix_2YBJPK.new_empty(rows, heads, 0, size) for _ in range(layers)]  # RJCK of every layer
        self._values = list(self._keys)
        self.tokens_RT = torch.zeros(rows, max_new, dtype=torch.int64, device=device)
        self.logprobs_RT = torch.zeros(rows, max_new, device=device)
        self.steps = 0
        self.hidden_RD = hidden_BD[self.prompt_R]
        self._arrange()

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values have memory or will need it."""
        _, _, prompts, _, length, _ = self.prefix_2YBJPK.shape
        return prompts * length + self._rows * self.tokens_RT.shape[1]

    @property
    def context_RC(self) -> Tensor:
        """All tokens of every row so far; padding repeats a token of the prompt."""
        return torch.cat((self.prompts_BP[self.prompt_R], self.tokens_RT[: len(self), : self.steps]), -1)

    @property
    def last_R(self) -> Tensor:
        return self.tokens_RT[: len(self), self.steps - 1]

    @property
    def positions_R(self) -> Tensor:
        """Where in its text each row's last token stands."""
        return self.lengths_B[self.prompt_R] + (self.steps - 1)

    def _arrange(self):
        """Give every row a slot among those of its prompt, so that a prompt's rows meet its prefix in one product."""
        prompts = len(self.lengths_B)
        rows_R = torch.arange(len(self), device=self.prompt_R.device)
        order_R = self.prompt_R.argsort(stable=True)
        counts_B = self.prompt_R.bincount(minlength=prompts)
        self._slots = int(counts_B.max())
        rank_R = torch.empty_like(rows_R)
        rank_R[order_R] = rows_R - (counts_B.cumsum(0) - counts_B)[self.prompt_R[order_R]]
        self._slot_of_row_R = self.prompt_R * self._slots + rank_R
        self._row_of_slot = rows_R.new_zeros(prompts * self._slots)
        self._row_of_slot[self._slot_of_row_R] = rows_R
        self._in_order = torch.equal(self._row_of_slot, rows_R)
        _, layers, _, heads, length, _ = self.prefix_2YBJPK.shape
        self._prefixes = [tuple(self.prefix_2YBJPK[:, layer].flatten(1, 2)) for layer in range(layers)]
        self._outside = None
        if not bool((self.lengths_B == length).all()):
            outside_BP = torch.arange(length, device=self.lengths_B.device) >= self.lengths_B[:, None]
            bias_BP = self.prefix_2YBJPK.new_zeros(outside_BP.shape).masked_fill_(outside_BP, -torch.inf)
            self._outside = bias_BP.repeat_interleave(heads, 0)[:, None]

    def begin_step(self):
        """Make room for one more token of every row."""
        rows, (_, heads, room, size) = len(self), self._keys[0].shape
        if self.steps > room:
            more = min(room + GROWTH, self.tokens_RT.shape[1])
            for tensors in (self._keys, self._values):
                for layer, old_RJCK in enumerate(tensors):
                    # zeros: no weight, but a NaN there would spread
                    tensors[layer] = old_RJCK.new_zeros(rows, heads, more, size)
                    tensors[layer][:, :, :room] = old_RJCK[:rows]
            self._rows, room = rows, more
        self._unused = None
        if self.steps < room:
            self._unused = self._keys[0].new_zeros(1, 1, room)
            self._unused[..., self.steps :] = -torch.inf

    def attend(self, layer: int, q_RJGK: Tensor, k_RJK: Tensor, v_RJK: Tensor) -> Tensor:
        """Store the new keys and values of a layer and return out_RJGK, attention over prompt and answer so far."""
        (rows, heads, group, size), at = q_RJGK.shape, self.steps - 1
        keys_RJCK, values_RJCK = self._keys[layer][:rows], self._values[layer][:rows]
        keys_RJCK[:, :, at], values_RJCK[:, :, at] = k_RJK, v_RJK
        q_RJGK = q_RJGK * size**-0.5
        own_NGK, own_lse_NG = attend(
            q_RJGK.flatten(0, 1), keys_RJCK.flatten(0, 1), values_RJCK.flatten(0, 1), self._unused
        )
        prompts, slots = len(self.lengths_B), self._slots
        q_BMJGK = self._to_slots(q_RJGK).view(prompts, slots, heads, group, size)
        q_NQK = q_BMJGK.transpose(1, 2).reshape(prompts * heads, slots * group, size)
        shared_NQK, lse_NQ = attend(q_NQK, *self._prefixes[layer], self._outside)
        shared_BMJGK = shared_NQK.view(prompts, heads, slots, group, size).transpose(1, 2)
        lse_BMJG = lse_NQ.view(prompts, heads, slots, group).transpose(1, 2)
        return merge(
            own_NGK.view(rows, heads, group, size),
            own_lse_NG.view(rows, heads, group),
            self._to_rows(shared_BMJGK.flatten(0, 1)),
            self._to_rows(lse_BMJG.flatten(0, 1)),
        )

    def _to_slots(self, x_R: Tensor) -> Tensor:
        return x_R if self._in_order else x_R.index_select(0, self._row_of_slot)

    def _to_rows(self, x_S: Tensor) -> Tensor:
        return x_S if self._in_order else x_S.index_select(0, self._slot_of_row_R)

    def record(self, tokens_R: Tensor, logprobs_R: Tensor, stop: Tensor) -> list[tuple[int, int, Answer]]:
        """Append one token to every row; return the answers this completes as (prompt, index, answer)."""
        rows, step = len(self), self.steps
        self.tokens_RT[:rows, step], self.logprobs_RT[:rows, step] = tokens_R, logprobs_R
        self.steps += 1
        stopped_R = torch.isin(tokens_R, stop)
        ended_R = stopped_R if self.steps < self.tokens_RT.shape[1] else torch.ones_like(stopped_R)
        ended = ended_R.nonzero()[:, 0].tolist()
        if not ended:
            return []
        ids, logprobs = self.tokens_RT[ended, : step + 1].tolist(), self.logprobs_RT[ended, : step + 1].tolist()
        flags = stopped_R[ended].tolist()
        done = [(*self.owners[row], Answer(*answer)) for row, *answer in zip(ended, ids, logprobs, flags, strict=True)]
        if len(ended) < rows:
            self._drop(~ended_R)
        else:
            self.owners = []
        return done

    def _drop(self, alive_R: Tensor):
        """Keep only these rows: move the last ones into the gaps, or copy all when at most half are left."""
        rows_left = int(alive_R.sum())
        order_R = torch.arange(rows_left, device=alive_R.device)
        gaps = (~alive_R[:rows_left]).nonzero()[:, 0]
        order_R[gaps] = alive_R[rows_left:].nonzero()[:, 0] + rows_left
        if 2 * rows_left > self._rows:
            moved = order_R[gaps]
            for x_R in (*self._keys, *self._values, self.tokens_RT, self.logprobs_RT):
                x_R.index_copy_(0, gaps, x_R.index_select(0, moved))
            self.prompt_R = self.prompt_R[order_R]
        else:
            self._keys, self._values = ([x[order_R] for x in tensors] for tensors in (self._keys, self._values))
            self._rows = rows_left
            self.tokens_RT, self.logprobs_RT = self.tokens_RT[order_R], self.logprobs_RT[order_R]
            kept_prompts, self.prompt_R = self.prompt_R[order_R].unique(return_inverse=True)
            self.lengths_B, self.prompts_BP = self.lengths_B[kept_prompts], self.prompts_BP[kept_prompts]
            if len(kept_prompts) < self.prefix_2YBJPK.shape[2]:
                self.prefix_2YBJPK = self.prefix_2YBJPK[:, :, kept_prompts]
        self.streams_R = self.streams_R[order_R]
        self.owners = [self.owners[row] for row in order_R.tolist()]
        self._arrange()

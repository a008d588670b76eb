"""Exact log-likelihood of continuations, and whether each is the greedy one, with what they share computed once.

Shape suffixes: N predicted tokens, T packed tokens, D hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.segments import Segments
from ..models.head import scores_of
from .batches import packed_batches, token_batches
from .engine import Likelihood, SamplingParams, unwrap
from .native import Decoder, inference, why_not_native


class Place(NamedTuple):
    """One continuation: the input it is read from, the first place in it that predicts, and its tokens."""

    number: int
    first: int
    targets: Sequence[int]


def likelihoods(
    model, sequences: Sequence[Sequence[int]], given: Sequence[int], max_tokens: int = 8192
) -> list[Likelihood]:
    """Of every sequence, the likelihood of what stands behind its first `given` tokens.

    The last token of a sequence predicts nothing and is no input: answers of one token to one prompt are read off one
    input. On models that the native engine can run, inputs with a common beginning compute it once, without padding.

    Raises:
        ValueError: a sequence that gives no token, or predicts none.
    """
    for i, (ids, n) in enumerate(zip(sequences, given, strict=True)):
        if not 0 < n < len(ids):
            raise ValueError(f"sequence {i}: found {n} of {len(ids)} tokens given, expected at least 1, and 1 left")
    inputs = sorted({tuple(ids[:-1]) for ids in sequences})  # neighbours have the longest beginnings in common
    numbers = {ids: number for number, ids in enumerate(inputs)}
    places = [Place(numbers[tuple(ids[:-1])], n - 1, ids[n:]) for ids, n in zip(sequences, given, strict=True)]
    of_input: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        of_input.setdefault(place.number, []).append(i)
    found: list = [None] * len(sequences)
    with inference(model):
        read = _packed if why_not_native(model) is None else _padded
        for hidden, members in read(model, inputs, max_tokens, of_input, places):
            where = [i for number in members for i in of_input[number]]
            for i, likelihood in zip(where, _scored(model, hidden, [places[i].targets for i in where]), strict=True):
                found[i] = likelihood
    return found


def _packed(model, inputs, max_tokens, of_input, places):
    """Batches as one row of segments: hidden states [N, D] that predict, in order, and the numbers of their inputs."""
    decoder = Decoder(unwrap(model), SamplingParams(), set(), max(map(len, inputs), default=0))
    for batch in packed_batches(inputs, max_tokens):
        tokens, groups, wanted, members = [], [], [], []
        for run in batch:
            root = len(tokens)
            tokens += inputs[run.first][: run.shared]
            for number in range(run.first, run.first + run.count):
                own = len(tokens) - run.shared
                tokens += inputs[number][run.shared :]
                for place in (places[i] for i in of_input[number]):
                    at = range(place.first, place.first + len(place.targets))
                    wanted += [t + (root if t < run.shared else own) for t in at]
                members.append(number)
            lengths = [len(inputs[number]) - run.shared for number in range(run.first, run.first + run.count)]
            groups.append((run.shared, lengths) if run.shared else (lengths[0], []))
        yield decoder.read(tokens, Segments.groups(groups), torch.tensor(wanted, device=decoder.device)), members


def _padded(model, inputs, max_tokens, of_input, places):
    """The same of any causal model, by its logits."""
    device = next(model.parameters()).device
    for members in token_batches([len(ids) for ids in inputs], max_tokens):
        ids_BL = torch.zeros(len(members), max(len(inputs[n]) for n in members), dtype=torch.long, device=device)
        rows, columns = [], []
        for row, number in enumerate(members):
            ids_BL[row, : len(inputs[number])] = torch.tensor(inputs[number])
            for place in (places[i] for i in of_input[number]):
                rows += [row] * len(place.targets)
                columns += range(place.first, place.first + len(place.targets))
        # right padding cannot reach back in a causal model, so no mask is needed
        yield model(input_ids=ids_BL, use_cache=False).logits[rows, columns], members


def _scored(model, states: Tensor, targets: list[Sequence[int]]) -> list[Likelihood]:
    flat_N = torch.tensor([token for ids in targets for token in ids], device=states.device)
    lengths = [len(ids) for ids in targets]
    if why_not_native(model) is None:
        scores = scores_of(unwrap(model).lm_head, states, flat_N, metrics=True)
        logps_N, top_N = scores.log_probs, scores.is_top1
    else:
        logps_NV = states.float().log_softmax(-1)
        logps_N, top_N = logps_NV.gather(1, flat_N[:, None])[:, 0], logps_NV.argmax(-1) == flat_N
    sums = [part.sum().item() for part in logps_N.double().split(lengths)]
    return [Likelihood(*pair) for pair in zip(sums, (bool(part.all()) for part in top_N.split(lengths)), strict=True)]

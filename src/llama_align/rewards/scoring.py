"""Scores from a reward model, in batches without much padding. Knows token ids only.

Suffixes: B rows, L padded length, D hidden size.
"""

from collections.abc import Sequence

import torch

from ..kernels import Segments
from ..models import LlamaHerdForSequenceClassification
from ..models.sharing import can_share
from ..sampling.batches import Run, packed_batches, token_batches
from ..sampling.engine import unwrap
from ..sampling.native import inference


class RewardScorer:
    """A sequence-classification model (`model` and a `score` head with one output) as a function of id lists.

    Args:
        pad_token_id: fills rows on the right; causal attention never lets a score see it, whatever it is.
        max_tokens: bound on the tokens of a batch, padding counted; a longer sequence is scored alone.

    A LlamaHerd takes a beginning that neighbours in the list have in common (the prompt of several answers) only once.
    """

    def __init__(self, model: torch.nn.Module, pad_token_id: int, max_tokens: int = 4096):
        self.model = model
        self.pad_token_id = pad_token_id
        self.max_tokens = max_tokens

    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Return the score at the last token of every sequence, in their order.

        Raises:
            ValueError: names the index of a sequence that is empty or longer than the model's context.
        """
        model = unwrap(self.model)
        limit = model.config.max_position_embeddings
        for i, ids in enumerate(sequences):
            if not 0 < len(ids) <= limit:
                raise ValueError(f"sequence {i} has {len(ids)} tokens, expected 1 to {limit}")
        with inference(self.model):
            if isinstance(model, LlamaHerdForSequenceClassification) and can_share(model):
                batches = packed_batches(sequences, self.max_tokens)
                return [score for batch in batches for score in _score_packed(model, sequences, batch)]
            scores = [0.0] * len(sequences)
            for batch in token_batches([len(ids) for ids in sequences], self.max_tokens):
                for i, score in zip(batch, self._score_padded(model, [sequences[i] for i in batch]), strict=True):
                    scores[i] = score
        return scores

    def _score_padded(self, model, batch: list[Sequence[int]]) -> list[float]:
        longest, device = len(batch[0]), model.score.weight.device
        ids_BL = torch.tensor(
            [[*ids, *[self.pad_token_id] * (longest - len(ids))] for ids in batch], dtype=torch.int64, device=device
        )
        last_B = torch.tensor([len(ids) - 1 for ids in batch], device=device)
        # no mask: padding stands after every token that is read, and attention without a mask is faster
        hidden_BLD = model.model(input_ids=ids_BL, use_cache=False).last_hidden_state
        return model.score(hidden_BLD[torch.arange(len(batch), device=device), last_B]).float()[:, 0].tolist()


def _score_packed(
    model: LlamaHerdForSequenceClassification, sequences: Sequence[Sequence[int]], batch: list[Run]
) -> list[float]:
    """All of a batch in one row, without padding, what a run shares only once."""
    tokens, groups, scored = [], [], []
    for run in batch:
        members = sequences[run.first : run.first + run.count]
        tokens += members[0][: run.shared]
        for ids in members:
            tokens += ids[run.shared :]
        own = [len(ids) - run.shared for ids in members]
        groups.append((run.shared, own) if run.shared else (own[0], []))
        scored += [not run.shared] + [True] * (run.count if run.shared else 0)
    row = torch.tensor([tokens], device=model.score.weight.device)
    logits_S1 = model(input_ids=row, segments=Segments.groups(groups), use_cache=False).logits
    return logits_S1[torch.tensor(scored), 0].tolist()

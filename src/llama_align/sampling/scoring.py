"""Scores from a reward model, in batches without much padding. Knows token ids only.

Suffixes: B rows, L padded length, D hidden size.
"""

from collections.abc import Sequence

import torch

from ..kernels import Segments
from ..models import LlamaHerdForSequenceClassification
from ..models.sharing import can_share
from .batches import packed_batches, token_batches
from .engine import unwrap
from .native import inference


class RewardScorer:
    """A sequence-classification model (`model` and a `score` head with one output) as a function of id lists.

    Args:
        pad_token_id: fills rows on the right; causal attention never lets a score see it, whatever it is.
        max_tokens: bound on the tokens of a batch, padding counted; a longer sequence is scored alone.
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
        scores = [0.0] * len(sequences)
        lengths = [len(ids) for ids in sequences]
        with inference(self.model):
            packs = isinstance(model, LlamaHerdForSequenceClassification) and can_share(model)
            batches, score_batch = (packed_batches, _score_packed) if packs else (token_batches, self._score_padded)
            for batch in batches(lengths, self.max_tokens):
                for i, score in zip(batch, score_batch(model, [sequences[i] for i in batch]), strict=True):
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


def _score_packed(model: LlamaHerdForSequenceClassification, batch: list[Sequence[int]]) -> list[float]:
    """All of a batch in one row, without padding."""
    row = torch.tensor([[token for ids in batch for token in ids]], device=model.score.weight.device)
    return model(input_ids=row, segments=Segments.documents(map(len, batch)), use_cache=False).logits[:, 0].tolist()

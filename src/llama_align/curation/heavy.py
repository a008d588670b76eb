"""A heavy text classifier: LlamaHerdForSequenceClassification on a tokenizer, distilled from labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..models import LlamaHerdForSequenceClassification, preset


@dataclass
class Heavy:
    """A classifier with its tokenizer; the same calls as `classify.Light`."""

    model: LlamaHerdForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    context: int = 256

    @property
    def classes(self) -> list[str]:
        return [self.model.config.id2label[number] for number in range(self.model.config.num_labels)]

    @classmethod
    def train(cls, texts: list[str], labels: list[str], tokenizer: PreTrainedTokenizerBase, *, start: str | None = None,
              size: str = "herd-nano", epochs: int = 3, batch: int = 16, learning_rate: float = 1e-3,
              context: int = 256, seed: int = 0) -> "Heavy":  # fmt: skip
        """Trains from a pretrained checkpoint `start`, or from random weights of a preset.

        Raises:
            ValueError: fewer than two classes among the labels.
        """
        classes = sorted(set(labels))
        if len(classes) < 2:
            raise ValueError(f"labels: found {classes}, expected at least two classes")
        torch.manual_seed(seed)
        head = {"num_labels": len(classes), "id2label": dict(enumerate(classes)),
                "label2id": {name: number for number, name in enumerate(classes)}}  # fmt: skip
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
               "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
        if start:
            model = LlamaHerdForSequenceClassification.from_pretrained(start, **head)
        else:
            config = preset(size, vocab_size=len(tokenizer), max_position_embeddings=context, **head, **ids)
            model = LlamaHerdForSequenceClassification(config)
        heavy = cls(model, tokenizer, context)
        heavy._fit(texts, [classes.index(label) for label in labels], epochs, batch, learning_rate, seed)
        return heavy

    def _fit(self, texts, targets, epochs: int, batch: int, learning_rate: float, seed: int) -> None:
        device = next(self.model.parameters()).device
        encoded = self._encode(texts)
        steps = epochs * -(-len(texts) // batch)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
        draw = torch.Generator().manual_seed(seed)
        self.model.train()
        for _ in range(epochs):
            order = torch.randperm(len(texts), generator=draw).tolist()
            for at in range(0, len(order), batch):
                chosen = order[at : at + batch]
                logits = self.model(**self._padded([encoded[i] for i in chosen], device)).logits
                wanted = torch.tensor([targets[i] for i in chosen], device=device)
                torch.nn.functional.cross_entropy(logits.float(), wanted).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        self.model.eval()

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # the last token is the one whose state is read: an end of its own, however short the text is cut
        cut = self.tokenizer([text[: 8 * self.context] for text in texts], add_special_tokens=False)["input_ids"]
        first = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        return [[*first, *ids[: self.context - len(first) - 1], self.tokenizer.eos_token_id] for ids in cut]

    def _padded(self, rows: list[list[int]], device) -> dict[str, torch.Tensor]:
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        return {"input_ids": ids, "attention_mask": mask}

    @torch.no_grad()
    def probabilities(self, texts: list[str], batch: int = 32):
        """(texts, classes)."""
        device = next(self.model.parameters()).device
        rows = self._encode(texts)
        parts = [
            self.model(**self._padded(rows[at : at + batch], device)).logits.float().softmax(-1).cpu()
            for at in range(0, len(rows), batch)
        ]
        return torch.cat(parts).numpy()

    def labels(self, texts: list[str]) -> list[str]:
        return [self.classes[best] for best in self.probabilities(texts).argmax(1)]

    def save(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path, context: int = 256) -> "Heavy":
        model = LlamaHerdForSequenceClassification.from_pretrained(folder).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder), min(context, model.config.max_position_embeddings))

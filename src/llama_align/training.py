"""What pretraining and the trainers share: the collator of packed rows and the model card."""

from dataclasses import dataclass
from pathlib import Path

import torch

CARD = """---
library_name: transformers
tags: [{tags}]
---

# {name}

{what}

| | |
|---|---|
| started from | `{base}` |
| objective | {objective} |
| source | {paper} |
| steps | {steps} |

Trained with `llama_align` ({trainer}). Load it with:

```python
import llama_align  # registers LlamaHerd with transformers
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```
"""


@dataclass
class PackedCollator:
    """Stacks rows of equal length that hold packed documents.

    Returns `input_ids`, `labels` and `position_ids`, each [B, L]; positions restart where a document begins, which is
    how the model keeps documents apart.
    """

    keys: tuple[str, ...] = ("input_ids", "labels", "position_ids")

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {key: torch.tensor([row[key] for row in rows]) for key in self.keys}


class CardMixin:
    """Writes our model card instead of TRL's, which names no base model for a model passed as an instance."""

    objective = ""
    paper = ""
    auto_class = "AutoModelForCausalLM"

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None:
            # DeepSpeed hands over copies, in which transformers no longer sees that two weights are tied
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict=state_dict)

    def create_model_card(self, model_name: str | None = None, **_) -> None:
        if not self.is_world_process_zero():
            return
        output = Path(self.args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        card = CARD.format(
            name=model_name or output.name,
            tags=", ".join(["llama-align", *self._tag_names[1:]]),
            what=(self.__doc__ or "").strip().splitlines()[0],
            base=self.model.config._name_or_path or "random weights",
            objective=self.objective,
            paper=self.paper,
            steps=self.state.global_step,
            trainer=type(self).__name__,
            auto=self.auto_class,
        )
        (output / "README.md").write_text(card)

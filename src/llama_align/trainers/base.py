"""What pretraining and the trainers share: the collator of packed rows, refused options, the model card, precision."""

import json
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from urllib.parse import quote

import torch
import yaml
from transformers import TrainerCallback

from ..runtime.identity import MERGED
from ..runtime.sharding import keep_wide
from .continuing import ContinuingMixin
from .markdown import block, code, plain

CARD = """---
{front}---

# {name}

{what}

| | |
|---|---|
| started from | {base} |
| objective | {objective} |
| source | {paper} |
| steps | {steps} |
{facts}
Trained with `llama_align` ({trainer}). Load it with:

```python
import llama_align  # registers LlamaHerd with transformers
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained({path})
tokenizer = AutoTokenizer.from_pretrained({path})
```
"""


@dataclass
class PackedCollator:
    """Stacks rows of equal length that hold packed documents.

    Returns `input_ids`, `labels` and `position_ids`, each [B, L]; positions restart where a document begins, which is
    how the model keeps documents apart. Rows that name a `source` keep it, [B].
    """

    keys: tuple[str, ...] = ("input_ids", "labels", "position_ids")

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        keys = (*self.keys, *(["source"] if "source" in rows[0] else []))
        return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in keys}


def refuse_unused(config, instead: str, *names: str) -> None:
    """Raises ValueError for an option of TRL's that was set and that our trainer would silently leave unused."""
    for name in names:
        own = type(config).__dataclass_fields__[name]
        default = own.default if own.default_factory is MISSING else own.default_factory()
        if (found := getattr(config, name)) != default:
            raise ValueError(f"{name}: found {found!r}, expected it left at {default!r}; it has no effect: {instead}")


def _started_from(name: str) -> str:
    """What a card calls the start of a run; where one was made for it, what of: an adapter, or a checkpoint."""
    made = Path(name) / MERGED
    if not name or not made.is_file():
        return name or "random weights"
    found = json.loads(made.read_text())
    return found["adapter"] if "adapter" in found else f"{found['checkpoint']}, with control tokens added"


@dataclass
class RunFacts:
    """What a recipe knows about a run and its model card names.

    Args:
        command: what started it. data: sources by the kind of record, which names the data card. metrics: the final
            ones. pictures: files beside the card, by title.
    """

    command: str = ""
    data: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        for kind, sources in self.data.items():
            named = ", ".join(map(code, sources)) or "none"
            # no link: the card is in the repository of llama_align, not beside the model
            lines.append(f"| data (`data_cards/{kind}.md` of llama_align) | {named} |")
        if self.command:
            lines += ["", "Made by:", "", *block(self.command, "sh")]
        flat = _flat(self.metrics)
        if flat:
            rows = (f"| {plain(name)} | {plain(value)} |" for name, value in flat.items())
            lines += ["", "## Metrics", "", "| | |", "|---|---|", *rows]
        for title, file in self.pictures.items():
            lines += ["", f"![{plain(title)}]({quote(file)})"]
        return "".join(f"{line}\n" for line in lines)


def _flat(metrics: dict, prefix: str = "") -> dict[str, str]:
    """Numbers and words of nested metrics by path; lists, which are curves and bins, are left to metrics.json."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            found[f"{prefix}{name}"] = f"{value:.4g}"
        elif not isinstance(value, list) and value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


class TokenCount(TrainerCallback):
    """Lets `num_tokens` go on where a resumed run's log stopped; TRL starts again from nothing."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        logged = [row["num_tokens"] for row in state.log_history if "num_tokens" in row]
        self.trainer._total_train_tokens = logged[-1] if logged else 0


class EqualRows:
    """For a trainer whose loss of a batch is a mean over rows: every row of a step weighs the same.

    The mean of the batches of a step, which Trainer takes, weighs the rows of a smaller last one more. Where several
    processes cannot share the last rows evenly, accelerate repeats some, and each repetition counts as a row.
    """

    loss_is_scaled_for_ga = True

    @staticmethod
    def rows_in(batch: dict) -> int:
        """Rows of a batch."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(map(self.rows_in, batches)), device=device)
        return batches, self.accelerator.reduce(rows, "sum")

    def share_of_step(self, loss: torch.Tensor, batch: dict, rows_of_step: torch.Tensor | None) -> torch.Tensor:
        """A batch's mean loss by its share of the step's rows: over a step and all processes these add up to the mean.

        Processes are averaged afterwards, hence their number. Outside of a step (`rows_of_step` None) it is the mean.
        """
        if rows_of_step is None:
            return loss
        return loss * self.rows_in(batch) * self.accelerator.num_processes / rows_of_step


class HerdTrainerMixin(ContinuingMixin):
    """What all our trainers do otherwise than Trainer and TRL.

    A run that was cut off goes on as if it had not been (`continuing`). The model card is ours (TRL's names no base
    model for a model passed as an instance), tied weights are saved once, and under FSDP2 losses and log-probabilities
    stay as they were made, and gradients are summed in float32.
    """

    objective = ""
    paper = ""
    auto_class = "AutoModelForCausalLM"
    facts = RunFacts()

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        keep_wide(self.accelerator)

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
        name = model_name or output.name
        front = {"library_name": "transformers", "tags": ["llama-align", *self._tag_names[1:]]}
        card = CARD.format(
            name=plain(name),
            path=json.dumps(name, ensure_ascii=False),
            front=yaml.safe_dump(front, default_flow_style=None, sort_keys=False, width=1000),
            what=(self.__doc__ or "").strip().splitlines()[0],
            base=code(_started_from(self.model.config._name_or_path)),
            objective=plain(self.objective),
            paper=self.paper,
            steps=self.state.global_step,
            trainer=type(self).__name__,
            auto=self.auto_class,
            facts=self.facts,
        )
        (output / "README.md").write_text(card, encoding="utf-8")

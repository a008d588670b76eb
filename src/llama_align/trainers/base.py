"""What pretraining and the trainers share: the collator of packed rows, refused options, the model card, precision."""

from dataclasses import MISSING, dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..publish.card import Place, render
from ..publish.checkpoint import publish_checkpoint
from ..publish.hub import Target, prepare
from ..publish.made import Made, RunFacts, history, started_from
from ..runtime.files import write_text
from ..runtime.sharding import keep_wide
from .continuing import ContinuingMixin
from .outward import Tracking


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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.args, "tracker", "none") != "none":
            self.add_callback(Tracking())

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
        made = self._made()
        made.write(output)
        name = model_name or output.name
        write_text(output / "README.md", render(made, Place(name, name)))

    def _made(self) -> Made:
        base, start = started_from(self.model.config._name_or_path)
        earlier, origin = history(start)
        return Made(
            what=(self.__doc__ or "").strip().splitlines()[0],
            stage=self._tag_names[-1],
            base=base,
            objective=self.objective,
            paper=self.paper,
            steps=self.state.global_step,
            trainer=type(self).__name__,
            auto=self.auto_class,
            tags=["llama-align", *self._tag_names[1:], *(["adapter"] if hasattr(self.model, "peft_config") else [])],
            facts=self.facts,
            more=self.card_tables(),
            earlier=earlier,
            origin=origin,
        )

    def card_tables(self) -> dict[str, dict]:
        """Tables of the card that only this trainer has, by title."""
        return {}

    # -- what leaves for the Hub leaves in `recipe.finish`, when the card says all there is to say

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Who am I, the repository and what the base's licence asks, before anything is trained."""
        if self.is_world_process_zero():
            _, start = started_from(self.model.config._name_or_path)
            self.hub_model_id = prepare(self._target, history(start)[1])

    @property
    def _target(self) -> Target:
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        return Target(name, revision=self.args.hub_revision, public=self.args.hub_private_repo is False)

    def push_to_hub(self, *_, **__) -> str | None:
        """Publishes what lies in the output directory, see `publish.checkpoint`; returns its address."""
        return publish_checkpoint(self.args.output_dir, self._target) if self.is_world_process_zero() else None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call=True)  # or it would be pushed, before its card is written

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Checkpoints are not published: they hold optimizer states and pickles."""

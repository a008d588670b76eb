"""A plan of stages under Trainer: steps of any size, a learning rate by tokens, rotary frequencies by stage, gates.

Knows Trainer's loop and a plan as `llama_align.pretraining.plan` makes it; knows nothing of how rows are chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import DistributedType
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from .gated import GatedMixin


class _Stages(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        self.trainer.enter_stage(state.global_step)
        self.trainer.count_steps()
        self.trainer.show_gates()

    def on_step_begin(self, args, state, control, **_):
        if state.global_step in self.trainer.plan.time.firsts:
            self.trainer.enter_stage(state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.trainer.judge_stage(state.global_step)


class StagedMixin(GatedMixin):
    """Makes a trainer follow a plan, whose items are one process's share of one step; without a plan it does nothing.

    Args:
        plan: of the run; `train_dataset` has its items. rate: the learning rate of a step, over `learning_rate`.
        rotary: the model's `rope_parameters` in every stage.

    Raises:
        ValueError: options of Trainer's that the plan would leave without effect.
    """

    def __init__(
        self,
        *args,
        plan: Any = None,
        rate: Callable[[int], float] | None = None,
        rotary: Sequence[dict] = (),
        **kwargs,
    ):
        self.plan, self._rate, self._rotary = plan, rate, list(rotary)
        self._most_steps = _check(kwargs["args"], plan) if plan is not None else None
        super().__init__(*args, **kwargs)
        if plan is not None:  # before those that ask how many steps there are
            self.callback_handler.callbacks.insert(0, _Stages(self))

    def get_train_dataloader(self) -> DataLoader:
        if self.plan is None:
            return super().get_train_dataloader()
        options = {
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "persistent_workers": self.args.dataloader_persistent_workers,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
        }
        # in the order of the items: their number is their step, by which Trainer passes over those trained on
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=1, collate_fn=_only, **options))

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.plan is None:
            return super().create_scheduler(num_training_steps, optimizer)
        rate = self._rate
        # a function and not the method: the state of an object would be saved
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: rate(step))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def enter_stage(self, step: int) -> None:
        """Called by every process before the first step of a stage, and where a run begins or goes on."""
        number = self.plan.time.at(step)
        if self.gates and self.gates.begins(number):
            if number:  # a run that goes on begins with the frequencies that it was started with
                self._turn(number - 1)
            self.measure_before(step, number)
        self._turn(number)

    def _turn(self, number: int) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if self._rotary and model.config.rope_parameters != self._rotary[number]:
            turn(getattr(model, "get_base_model", lambda: model)(), self._rotary[number])

    def count_steps(self) -> None:
        """Has Trainer train as many steps as the plan has by now, and none where a gate is shut for good."""
        steps = self.plan.steps if self._most_steps is None else min(self._most_steps, self.plan.steps)
        self.state.max_steps = self.state.global_step if self.gates and self.gates.shut else steps

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.plan is not None and self.plan.may_grow:
            epoch_iterator = self._as_planned(epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _as_planned(self, epoch_iterator: Iterator[dict]) -> Iterator[dict]:
        """The next step's rows, read again where that was done before a gate changed the plan."""
        for batch in epoch_iterator:
            if int(batch.pop("portions")) != len(self.plan.time.taken):
                item = self.state.global_step * self.args.world_size + self.args.process_index
                batch = self._prepare_inputs(_only([self.train_dataset[item]]))
                del batch["portions"]
            yield batch

    def training_step(self, model, inputs, num_items_in_batch=None):
        """A step's share in parts of `per_device_train_batch_size` rows; gradients are reduced with the last."""
        if self.plan is None:
            return super().training_step(model, inputs, num_items_in_batch)
        rows, size = len(inputs["input_ids"]), self.args.per_device_train_batch_size
        parts = [{key: value[at : at + size] for key, value in inputs.items()} for at in range(0, rows, size)]
        state, total = self.accelerator.gradient_state, 0.0
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        for part in parts[:-1]:
            state._set_sync_gradients(False)  # by which DeepSpeed knows that its step comes later
            with nullcontext() if deepspeed else self.accelerator.no_sync(model):
                total += super().training_step(model, part, num_items_in_batch)
        state._set_sync_gradients(True)
        return total + super().training_step(model, parts[-1], num_items_in_batch)


def turn(model, parameters: dict) -> None:
    """Gives a model other rotary frequencies, in its configuration and where they are kept.

    Args:
        parameters: as in `config.rope_parameters`.
    """
    model.config.rope_parameters = dict(parameters)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config).to(rotary.inv_freq.device)


def _only(items: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in items[0].items()}


def _check(args, plan) -> int | None:
    """The steps that were asked for, None for the plan's. Raises ValueError for what the plan leaves no effect."""
    found = {
        "num_train_epochs": (args.num_train_epochs, 3.0, "stages say how many tokens"),
        "gradient_accumulation_steps": (
            args.gradient_accumulation_steps,
            1,
            "it follows from a stage's batch and per_device_train_batch_size",
        ),
        "ignore_data_skip": (args.ignore_data_skip, False, "rows follow from the step"),
        "auto_find_batch_size": (args.auto_find_batch_size, False, "batches are the stages'"),
        "train_sampling_strategy": (args.train_sampling_strategy, "random", "rows follow from the step"),
        "dataloader_drop_last": (args.dataloader_drop_last, False, "every step is whole"),
    }
    for name, (value, expected, why) in found.items():
        if value != expected:
            raise ValueError(f"{name}: found {value!r} with stages, expected {expected!r}; {why}")
    if args.max_steps > plan.steps:
        raise ValueError(f"max_steps: found {args.max_steps}, expected at most {plan.steps}, the steps of all stages")
    if args.max_steps > 0:
        return args.max_steps
    args.max_steps = plan.steps
    return None

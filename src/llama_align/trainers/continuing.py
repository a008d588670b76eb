"""Training that is cut off and goes on as if it never had been.

Knows Trainer's loop, its checkpoints and signals; knows nothing of losses.
"""

import os
import signal
from pathlib import Path

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import SaveStrategy

from ..runtime.files import naming, write_json
from ..runtime.manifest import described

MANIFEST = "manifest.json"  # of a checkpoint, written last


class Continuity(TrainerCallback):
    """Makes a checkpoint the last thing that happens in its step, and SIGTERM end a run behind one.

    What is counted between two logs is in no checkpoint, so a step that is saved is logged before. An epoch's
    evaluation comes before its checkpoint, too, or a run resumed from there would never make it.

    transformers' own answer to SIGTERM (`enable_jit_checkpoint`) saves wherever the signal finds it: within a step
    whose random numbers are drawn, or before its log. Here the step is finished first; with several processes, that at
    which all have seen the signal of any.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self._asked = self._at_epoch_end = False
        self._before = None

    def on_train_begin(self, args, state, control, **_):
        self._asked = self._at_epoch_end = False
        if args.enable_jit_checkpoint:
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_train_end(self, args, state, control, **_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_) -> None:
        self._asked = True

    def on_step_end(self, args, state, control, **_):
        if args.enable_jit_checkpoint and self._anybody_asked():
            control.should_training_stop = control.should_save = True
        may_save = args.save_strategy == SaveStrategy.BEST and control.should_evaluate
        control.should_log |= control.should_save or may_save
        if control.should_save and (control.should_training_stop or float(state.epoch).is_integer()):
            control.should_save, self._at_epoch_end = False, True

    def on_epoch_end(self, args, state, control, **_):
        may_save = args.save_strategy == SaveStrategy.BEST and control.should_evaluate
        control.should_save |= self._at_epoch_end
        control.should_log |= control.should_save or may_save
        self._at_epoch_end = False

    def _anybody_asked(self) -> bool:
        accelerator = self.trainer.accelerator
        asked = torch.tensor(float(self._asked), device=accelerator.device)
        return bool(accelerator.reduce(asked, "sum") > 0)


class ContinuingMixin:
    """Makes a trainer's runs go on from a kill as if there had been none."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if jit := self.pop_callback(JITCheckpointCallback):
            signal.signal(signal.SIGTERM, jit.jit_manager._original_sigterm_handler or signal.SIG_DFL)
        self.add_callback(Continuity(self))

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            # killed behind its last checkpoint; Trainer would look at the number of steps after one more
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def log(self, logs, start_time=None):
        if "train_loss" in logs:  # Trainer's is that of the steps since the run was resumed
            total, logged = self._tr_loss.item(), 0
            for row in self.state.log_history:
                if "loss" in row:
                    total += row["loss"] * (row["step"] - logged)
                    logged = row["step"]
            logs["train_loss"] = total / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def save_model(self, output_dir=None, _internal_call=False):
        with naming(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            (folder / MANIFEST).unlink(missing_ok=True)  # of a damaged one in the same place
        with naming(folder):
            super()._save_checkpoint(model, trial)
        self._seal(folder)

    def _seal(self, folder: Path) -> None:
        """Writes what the checkpoint holds, of all processes, once all have written theirs."""
        state = self.accelerator
        state.wait_for_everyone()
        names = sorted(os.path.relpath(file, folder) for file in folder.rglob("*") if file.is_file())
        shares = gather_object([described(folder, names[state.process_index :: state.num_processes])])
        if self.args.should_save:
            files = {name: row for share in shares for name, row in share.items()}
            write_json(folder / MANIFEST, {"processes": state.num_processes, "files": files})

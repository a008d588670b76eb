"""What training tells others: curves for a tracker, a model for the Hub.

Knows options of transformers; knows nothing of losses.
"""

from dataclasses import dataclass, field, replace

from transformers import TrainerCallback

from ..runtime.trackers import TRACKERS, check_tracker, curve_of, numbers, open_tracker

PROJECT = "huggingface"  # transformers' default


@dataclass
class OutwardArguments:
    """Options of where numbers and models go, and transformers' own for that as far as they are honoured."""

    tracker: str = field(
        default="none",
        metadata={"help": "curves: none, trackio, tensorboard or wandb; on this machine, offline", "choices": TRACKERS},
    )
    hub_strategy: str = field(default="end", metadata={"help": "end: the finished model, with its card"})

    def __post_init__(self):
        if self.hub_token is not None:  # it would be saved with the model, in training_args.bin
            raise ValueError("hub_token: found one, expected none; set HF_TOKEN in the environment, or `hf auth login`")
        if self.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy: found {self.hub_strategy}, expected end; checkpoints hold optimizer states and "
                "pickles, which are never published"
            )
        check_tracker(self.tracker)
        named = {self.report_to} if isinstance(self.report_to, str) else {*(self.report_to or ())}
        if ours := sorted(named & {"all", *TRACKERS[1:]}):
            expected = f"tracker: {ours[0]}" if ours[0] in TRACKERS else f"tracker: one of {', '.join(TRACKERS)}"
            raise ValueError(f"report_to: found {', '.join(ours)}, expected {expected}, which stays on this machine")
        if named - {"none"} and self.tracker != "none":
            found = ", ".join(sorted(named))
            raise ValueError(f"report_to: found {found} beside tracker: {self.tracker}, expected one of the two")
        super().__post_init__()


class Tracking(TrainerCallback):
    """Sends what is logged to the tracker; a resumed run goes on with its curve."""

    def __init__(self):
        self._tracker = None

    def on_train_begin(self, args, state, control, **_):
        if state.is_world_process_zero:
            curve = curve_of(args.output_dir)
            curve = replace(curve, project=args.project) if args.project != PROJECT else curve
            curve = replace(curve, name=args.run_name) if args.run_name else curve
            self._tracker = open_tracker(args.tracker, curve, state.global_step)

    def on_log(self, args, state, control, logs=None, **_):
        if self._tracker:
            self._tracker.log(state.global_step, numbers(logs or {}))

    def on_train_end(self, args, state, control, **_):
        if self._tracker:
            self._tracker.close()
            self._tracker = None

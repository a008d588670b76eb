"""What the keys of logs and metrics are called on a page: the one place, with a fallback for those nobody named."""

from ..data.records import GRADES

SCHEDULES = frozenset({"Learning rate", "KL coefficient", "Tokens seen"})  # what was set, not measured

# panels in the order of the page, results first; each with the keys it draws and what a legend calls them
_FIRST = {
    "Loss": {"loss": "training"},
    "Accuracy": {"accuracy": "training", "rewards/accuracies": "training"},
    "Accuracy by grade": {f"accuracy/{grade}": grade.replace("_", " ") for grade in GRADES},
    "Margin": {"margin": "training", "rewards/margins": "training"},
    "Reward": {
        "reward": "reward",
        "objective/scores": "reward",
        "objective/rlhf": "less KL",
        "objective/rlhf_reward": "less KL",
    },
    "KL to the reference": {"kl": "KL", "objective/kl": "KL"},
    "Implicit reward": {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    "Rewards by model": {"rewards/": ""},
    "Answer length, tokens": {"answers/length": "sampled", "completions/mean_length": "sampled"},
    "Entropy": {"entropy": "entropy", "objective/entropy": "entropy"},
}
_LATER = {
    "Parts of the loss": {
        "loss/nll": "NLL of chosen",
        "loss/policy": "policy",
        "loss/value": "value",
        "loss/margin": "ranking",
        "loss/center": "centring",
        "loss/": "",
    },
    "Accuracy by objective": {"accuracy/": ""},
    "Tokens predicted right": {"mean_token_accuracy": "training"},
    "Calibration error": {"ece": "ECE"},
    "Longer answer wins": {"longer_wins": "all"}
    | {f"longer_wins/{grade}": grade.replace("_", " ") for grade in GRADES}
    | {"longer_wins/": ""},
    "Length and score, correlation": {"length_correlation": "r"},
    "Score": {"score/": ""},
    "Log-probability": {"logps/": ""},
    "Logits": {"logits/": ""},
    "Answers": {"answers/kept": "kept", "answers/finished": "ended", "answers/": ""},
    "Ratio, new to old policy": {"policy/ratio": "ratio"},
    "Clipped tokens": {"policy/clip_fraction": "policy", "value/clip_fraction": "value"},
    "KL of an update": {"policy/approx_kl": "estimate"},
    "Explained variance of returns": {"value/explained_variance": "value"},
    "KL coefficient": {"kl_coefficient": "KL coefficient"},
    "Gradient norm": {"grad_norm": "before clipping"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Tokens seen": {"num_tokens": "tokens"},
}
_PANELS = _FIRST | _LATER
_PLACES = {key: (title, label) for title, keys in _PANELS.items() for key, label in keys.items()}
_ORDER = {title: place for place, title in enumerate(_PANELS)}
_HELD_OUT = "eval_"


def pretty(key: str) -> str:
    """A key as words: "value/clip_fraction" is "value: clip fraction"."""
    return ": ".join(part.replace("_", " ").strip() for part in key.split("/") if part)


def curve_place(key: str) -> tuple[str, str] | None:
    """The panel of a logged key and its name in the legend; None for what is no curve. Unknown keys have one."""
    if key in ("step", "epoch", "total_flos") or key.startswith("train_"):  # of the whole training, once at its end
        return None
    held_out = key.startswith(_HELD_OUT)
    key = key.removeprefix(_HELD_OUT)
    head, slash, rest = key.partition("/")
    if key in _PLACES:
        title, label = _PLACES[key]
    elif head + slash in _PLACES and rest:
        title, label = _PLACES[head + slash][0], pretty(rest)
    else:
        title, label = pretty(head).capitalize(), pretty(rest or head)
    if held_out:
        label = "held out" if label == "training" else f"{label}, held out"
    return title, label


def is_known(key: str) -> bool:
    """Whether the key is one of our trainers', which log numbers alone."""
    return key.removeprefix(_HELD_OUT) in _PLACES


def panel_order(title: str) -> tuple[bool, int]:
    """Key to sort panels by: whether it comes later (all but results), and its place among its like."""
    return title not in _FIRST, _ORDER.get(title, len(_ORDER))

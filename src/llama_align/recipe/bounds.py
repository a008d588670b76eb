"""What the value of an option may be: the type its dataclass names, and the bounds of numbers, in one table."""

import dataclasses
import enum
import functools
import math
import operator
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..runtime.showing import show
from .yaml_files import Keys


@dataclass(frozen=True)
class Bound:
    """Numbers from `low` to `high`; `above`: `low` itself is not among them. also: a number outside, with its meaning.

    `below`: `high` is not among them.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def fits(self, value: float) -> bool:
        inside = (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )
        return inside or value in self.also

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'of at least'} {_short(self.low)}"
        high = f"{'below' if self.below else 'at most'} {_short(self.high)}"
        return f"{low} and {high}" + "".join(f", or {_short(value)}" for value in self.also)


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e10 else f"{number:g}"


def _table(*rows: tuple[Bound, str]) -> dict[str, Bound]:
    return {name: bound for bound, names in rows for name in names.split()}


# what no computation can mean, or no machine can do; what is unwise is for the user to decide
BOUNDS = _table(
    (Bound(1, 1e9, also=(-1,)), "max_steps"),
    (Bound(0, 1e6, above=True), "num_train_epochs"),
    (Bound(0, 1e9, above=True), "logging_steps save_steps eval_steps"),
    (Bound(0, 1e9), "warmup_steps eval_delay alarm_after exclamations"),
    (Bound(0, 2**32 - 1), "seed data_seed seeds"),
    (Bound(0, 10), "learning_rate value_learning_rate weight_decay"),
    (Bound(0, 1, below=True), "adam_beta1 adam_beta2 lora_dropout label_smoothing label_smoothing_factor"),
    (Bound(0, 1, below=True), "weight_average_decay weight_average_after"),
    (Bound(0, 1, above=True), "adam_epsilon top_p share keep vllm_gpu_memory_utilization"),
    (Bound(0, 1, above=True), "hardest shares similarity top"),  # of the rules of refine, as are the next two lines
    (Bound(0, 1, above=True, below=True), "drop"),
    (Bound(1, 1e9), "cluster count dimensions"),
    (Bound(0, 1), "min_p safety_threshold gamma lam ld_alpha ref_model_mixup_alpha part eval_part z_loss"),
    (Bound(0, 1), "infilling infilling_suffix_first least overlap second_look"),
    (Bound(0, 1, below=True), "gold_share"),
    (
        Bound(0, 1),
        "complies form_ignored rambling refuses_lookalike refuses_safe wrong_answer",  # of the sandbox
    ),
    (Bound(0, 100), "temperature temperature_search"),
    (Bound(0, 100, above=True), "repetition_penalty"),
    (Bound(0, 1e6), "max_grad_norm beta epsilon epsilon_high nll_coefficient value_coefficient truncation_penalty"),
    (Bound(0, 1e6), "noise annotator_noise safety_coefficient neftune_noise_alpha router_aux_loss_coef"),
    (Bound(0, 1e6), "center_rewards_coefficient spike_deviations"),
    (Bound(0, 1e6, above=True), "kl_target value_clip discopop_tau vllm_server_timeout"),
    (Bound(-1e6, 1e6), "f_alpha_divergence_coef reward_clip_range reward_weights"),
    (Bound(-1e12, 1e12), "threshold gap gaps margin objectives loss_weights"),
    (Bound(0, 1e12), "weights"),
    (Bound(0, 1e21, above=True), "peak_flops"),
    (Bound(0, 1e30, above=True), "budgets most_epochs"),
    (Bound(0, 1e30), "budget target_budget"),
    (Bound(1, 1e7), "vocab_size lora_r lora_alpha"),
    (Bound(0, 1e7), "top_k round num_special_tokens"),
    (Bound(1, 1e9), "context max_length max_new_tokens max_completion_length max_cached_tokens vllm_max_model_length"),
    (Bound(1, 1e9), "per_device_train_batch_size per_device_eval_batch_size precompute_ref_batch_size"),
    (Bound(1, 1e9), "generation_batch_size steps_per_generation gradient_accumulation_steps eval_accumulation_steps"),
    (Bound(1, 1e9), "num_generations num_generations_eval num_iterations num_completions_to_print answers pairs"),
    (Bound(1, 1e9), "limit programs"),
    (Bound(1, 1e9), "prompts_per_shard kl_horizon ref_model_sync_steps save_total_limit torch_empty_cache_steps"),
    (Bound(1, 1e9), "pad_to_multiple_of dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout"),
    (Bound(1, 4096), "dataset_num_proc vllm_tensor_parallel_size jobs"),
    (Bound(0, 4096), "dataloader_num_workers"),
    (Bound(-1, 1e6), "local_rank"),
    (Bound(1, 65535), "vllm_server_port vllm_group_port"),
    (Bound(0, 1, above=True, below=True), "heldout decay"),
    (Bound(1, 1e6), "annotators draws epochs last mixtures tasks tested turns workers"),
    (Bound(2, 1e3), "overlap_people"),
    (Bound(1, 1e6), "own_prompts"),
    (Bound(1, 1e15), "anneal_tokens max_characters file_characters tokens"),
    (Bound(0, 1e9), "demonstrations documents documents_heldout people places preferences preferences_heldout prompts"),
    (Bound(0, 1e9), "heldout_helpful heldout_lookalike heldout_secret"),
    (Bound(0, 1e9), "validation_helpful validation_lookalike validation_secret"),
)
# beside the type a dataclass names, which is what a command line can say
ALSO = {"margin": dict[str, float], "resume_from_checkpoint": bool}


class Misfit(ValueError):
    """A value that is not what was expected, at `keys` within the option's value."""

    def __init__(self, keys: Keys, value: Any, expected: str):
        super().__init__(f"found {shown(value)}, expected {expected}")
        self.keys = keys


def hints_of(dataclass_types: Iterable[type]) -> dict[str, Any]:
    """Option -> type, of all fields that a command line or a file may set."""
    found = {}
    for kind in dataclass_types:
        hints, fields = typing.get_type_hints(kind), kind.__dataclass_fields__
        found |= {n: _narrowed(hints[n], each.metadata.get("choices")) for n, each in fields.items() if each.init}
    return found


def _narrowed(hint: Any, choices: Iterable | None) -> Any:
    """A type in whose place of any text stand those that are meant: the option's choices, or the values of an
    enumeration, which is made of the text later."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    args = typing.get_args(hint) if union else (hint,)
    kinds = [arg for arg in args if isinstance(arg, type) and issubclass(arg, enum.Enum)]
    values = tuple(choices or (each.value for kind in kinds for each in kind))
    if not values or not (kinds or str in args):
        return hint
    others = [arg for arg in args if arg is not str and arg not in kinds]
    return functools.reduce(operator.or_, others, typing.Literal[values])


def fitting(name: str, value: Any, hint: Any) -> Any:
    """The value of an option; one alone where it takes a list of texts or numbers becomes that list.

    Raises:
        Misfit: another type than its dataclass names, or a number out of bounds.
    """
    if typing.get_origin(hint) is list and typing.get_args(hint)[0] in (str, int, float):
        value = value if isinstance(value, list | None) else [value]
    check_type(value, hint | ALSO[name] if name in ALSO else hint, ())
    if name in BOUNDS:
        check_bound(value, BOUNDS[name], ())
    return value


def shown(value: Any) -> str:
    """How an error quotes a value."""
    return str(value).lower() if isinstance(value, bool) else str(value) if _is_number(value) else show(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_bound(value: Any, bound: Bound, keys: Keys) -> None:
    """Raises Misfit for a number out of bounds, anywhere in the value; other values pass."""
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_bound(item, bound, (*keys, number))
    elif isinstance(value, dict):
        for key, item in value.items():
            check_bound(item, bound, (*keys, key))
    elif _is_number(value) and not bound.fits(value):  # which no nan does
        raise Misfit(keys, value, f"a number {bound}")


def check_type(value: Any, hint: Any, keys: Keys) -> None:
    """Raises Misfit for a value that is not of the type, at the item that is not."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        same = [arg for arg in args if (typing.get_origin(arg) or arg) is type(value)]
        if len(same) == 1:  # so that the item that does not fit is named
            return check_type(value, same[0], keys)
        if not any(_fits(value, arg) for arg in args):
            raise Misfit(keys, value, words(hint) + _quotes(value, hint))
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        if origin is tuple and len(args) != len(value):
            raise Misfit(keys, value, words(hint))
        for number, item in enumerate(value):
            check_type(item, args[number] if origin is tuple else args[0], (*keys, number))
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            check_type(item, args[1], (*keys, key))
    elif not _is_a(value, hint):
        raise Misfit(keys, value, words(hint) + _quotes(value, hint))
    return None


def _fits(value: Any, hint: Any) -> bool:
    try:
        check_type(value, hint, ())
    except Misfit:
        return False
    return True


def _is_a(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if typing.get_origin(hint) is typing.Literal:
        return any(value is arg or (isinstance(arg, str) and value == arg) for arg in typing.get_args(hint))
    if hint is float:
        return _is_number(value) and abs(value) < math.inf  # whatever a whole number's length
    if hint is int:
        return type(value) is int
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return isinstance(value, str)
    if dataclasses.is_dataclass(hint):  # as JSON has it
        return isinstance(value, dict)
    return isinstance(value, typing.get_origin(hint) or hint)


MOST = 12  # names that an error lists
NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
PLURALS = {str: "texts", int: "whole numbers", float: "numbers", bool: "true or false", dict: "mappings"}


def words(hint: Any) -> str:
    """How an error calls the values of a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(words(arg) for arg in args))
    if origin is typing.Literal:
        return " or ".join(map(shown, args)) if len(args) <= MOST else f"one of {len(args)} names that --help lists"
    if origin is tuple:
        return f"a list of {len(args)} {PLURALS.get(args[0], 'values')}"
    if (origin or hint) is list:
        return f"a list of {PLURALS.get(typing.get_origin(args[0]) or args[0], 'values') if args else 'values'}"
    if hint is types.NoneType or not isinstance(origin or hint, type):
        return "null"
    if issubclass(origin or hint, enum.Enum):
        return "text"
    return NAMES.get(origin or hint, "null")


def _quotes(value: Any, hint: Any) -> str:
    """What helps where YAML read text as something else, or was given a number in quotes."""
    if isinstance(value, bool | int | float) and (_fits("", hint) or _names_texts(hint)):
        return "; in quotes, if text was meant ('no' is false without them)" if value is False else "; in quotes"
    return "; without quotes" if isinstance(value, str) and _looks_like(value, hint) else ""


def _names_texts(hint: Any) -> bool:
    return typing.Literal in map(typing.get_origin, (hint, *typing.get_args(hint)))


def _looks_like(text: str, hint: Any) -> bool:
    try:
        return _fits(float(text), hint) or _fits(int(text), hint)
    except ValueError:
        return text in ("true", "false") and _fits(True, hint)

"""Checkpoints, tokenizers and prompts as recipes load them, with clear errors.

Knows nothing of losses or of a recipe's options.
"""

import functools
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..chat import adopt
from ..data import Prompt, fitting_prompts, load_records, tokens_of
from ..rewards import RewardModel
from ..runtime.identity import checkpoint_dtype, hub_file
from ..runtime.output import say
from .adapters import Adapter, adapter_of, merged
from .errors import RecipeError
from .quantised import check_rounding, loading, multiplied_out
from .whole import check_checkpoint, check_tokenizer, is_local


def load_tokenizer(
    path: str, revision: str | None = None, trust_remote_code: bool = False, dialogs: bool = True
) -> PreTrainedTokenizerBase:
    """A tokenizer that keeps the token contract; an adapter without one has that of its base.

    Says, once, in which dialect it writes and what was changed for that.

    Args:
        dialogs: whether it must write dialogs; documents take an end of text alone, and leave the rest as it is.

    Raises:
        RecipeError: a local directory without one. ContractError: one that no dialect fits, or without an end of text.
    """
    if not path:
        raise RecipeError("tokenizer: found none, expected a path or a name on the Hub")
    if not has_tokenizer(path, revision, alone=True) and (adapter := _adapter_at(path, revision)):
        check_base(adapter)
        if not has_tokenizer(adapter.base, adapter.base_revision):
            raise RecipeError(f"{path}: found no tokenizer files in it, nor in its base {adapter.base}, expected some")
        return load_tokenizer(adapter.base, adapter.base_revision, trust_remote_code, dialogs)
    if is_local(path) and not has_tokenizer(path):
        raise RecipeError(f"{path}: found no tokenizer files, expected tokenizer.json; run recipes/tokenizer.py first")
    check_tokenizer(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # of the Hub's client, of transformers or of tokenizers, which raises no other class
        raise RecipeError(f"{path}: found no tokenizer that loads ({error}), expected one") from error
    if dialogs:
        _announce(f"{path}: {adopt(tokenizer)[1]}")
    elif tokenizer.pad_token is None and (tokens := tokens_of(tokenizer)).pad != tokens.eos:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(tokens.pad)
    return tokenizer


@functools.cache
def _announce(said: str) -> None:
    if PartialState().is_main_process:
        say(said)


def has_tokenizer(path: str, revision: str | None = None, alone: bool = False) -> bool:
    """Whether a checkpoint has a tokenizer beside it, or else, unless `alone`, the base that it is an adapter on."""
    found = any(Path(path).glob("tokenizer*"))
    if not is_local(path) and not Path(path).is_dir():
        found = any(hub_file(path, name, revision) for name in ("tokenizer_config.json", "tokenizer.json"))
    if found or alone or not (adapter := _adapter_at(path, revision)):
        return found
    return has_tokenizer(adapter.base, adapter.base_revision)


def _adapter_at(path: str, revision: str | None) -> Adapter | None:
    """As `adapter_of`, and None for a folder that is not there."""
    return None if is_local(path) and not Path(path).is_dir() else adapter_of(path, revision)


def check_match(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises RecipeError where model and tokenizer do not belong together: vocabulary or control ids differ.

    The model then pads with the contract's token.
    """
    name, config = model.config._name_or_path or "model", model.config
    if len(tokenizer) > config.vocab_size:
        raise RecipeError(
            f"{name}: found vocab_size {config.vocab_size} in the model's configuration, expected at least "
            f"{len(tokenizer)}, the size of tokenizer {tokenizer.name_or_path!r}"
        )
    tokens = tokens_of(tokenizer)
    # published configurations pad with the end of a turn, or with -1, where the contract has a token of its own
    allowed = {
        "bos_token_id": {tokenizer.bos_token_id, tokens.bos},
        "pad_token_id": {tokens.pad, tokenizer.unk_token_id, -1, *tokens.ids.values()},
    }
    for field, theirs in allowed.items():
        ours = getattr(config, field, None)
        if ours is not None and ours not in theirs:
            expected = getattr(tokenizer, field)
            raise RecipeError(
                f"{name}, field {field!r}: found {ours} in the configuration, expected {expected} as in tokenizer "
                f"{tokenizer.name_or_path!r}; they do not belong together"
            )
    if tokens.pad != tokens.eos:  # whose row would no longer be trained
        config.pad_token_id = tokens.pad


def load_model(
    path: str,
    kind: str = "causal",
    tokenizer: PreTrainedTokenizerBase | None = None,
    new_head: bool = True,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    **kwargs,
):
    """A checkpoint from safetensors, checked against its tokenizer; an adapter is merged into its base, in float32.

    A base that was rounded to 4 or 8 bits when the adapter was trained is rounded here, too (`recipe.quantised`).

    Args:
        kind: `"causal"`, `"reward"` (one score a sequence) or `"value"` (one a token; a reward model's head is kept).
        new_head: a reward or value model may start from a checkpoint without a score head; it then starts at random.
        dtype: of the weights; `"auto"`: that of the checkpoint.

    Raises:
        RecipeError: no weights, weights of another kind of model, a tokenizer that does not match, or an adapter that
            cannot be merged.
    """
    check_checkpoint(path, kind, new_head)
    adapter = adapter_of(path, revision)
    if dtype == "auto":
        dtype = checkpoint_dtype(adapter.folder) if adapter else checkpoint_dtype(path, revision)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if kind != "causal":
        kwargs["num_labels"] = outputs_of(path, kwargs.get("num_labels"))
    if adapter is None:
        model = _load_whole(path, kind, new_head, dtype=dtype, revision=revision, **kwargs)
    else:
        check_base(adapter)
        if "quantization_config" in kwargs:
            raise RecipeError(f"{path}: found an adapter below another, expected a whole checkpoint to round to bits")
        head = new_head or adapter.kind == "reward"

        def load_base(base, base_revision):
            if adapter.rounding is None:
                return load_model(base, kind, None, head, base_revision, torch.float32, **kwargs)
            check_rounding(adapter.rounding, adapter.path)
            return multiplied_out(
                load_model(base, kind, None, head, base_revision, **loading(adapter.rounding), **kwargs)
            )

        model = merged(adapter, kind, load_base)
        _cast(model, dtype)
    if kind == "value":
        _keep_score(model)
    if tokenizer is not None:
        check_match(model, tokenizer)
    return model


def check_base(adapter: Adapter) -> None:
    """Raises RecipeError where the checkpoint that an adapter stands on is not there."""
    try:
        check_checkpoint(adapter.base)
    except RecipeError as error:
        raise RecipeError(f"{adapter.path}, adapter_config.json, field 'base_model_name_or_path': {error}") from error


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weights alone: a buffer, such as the frequencies of positions, keeps its precision."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    model.config.dtype = dtype


def _load_whole(path: str, kind: str, new_head: bool, **options) -> PreTrainedModel:
    auto = {
        "causal": AutoModelForCausalLM,
        "reward": AutoModelForSequenceClassification,
        "value": AutoModelForTokenClassification,
    }[kind]
    try:
        model, report = auto.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of transformers, of PEFT or of the Hub's client, over what cannot be checked above
        found = f"found a model that does not load ({type(error).__name__}: {error})"
        raise RecipeError(f"{path}: {found}, expected a whole checkpoint") from error
    # transformers fills what is missing with random numbers
    missing = sorted(name for name in report["missing_keys"] if not (new_head and name.startswith("score.")))
    if missing:
        wanted = type(model).__name__
        raise RecipeError(f"{path}: found no {', '.join(missing[:3])} among its weights, expected those of {wanted}")
    return model


def outputs_of(path: str, wanted: int | None = None) -> int:
    """Outputs of a reward model to be loaded: the first is the score, a second that of a safety head.

    Raises:
        RecipeError: the checkpoint has another number than wanted.
    """
    found = score_outputs(path)
    if wanted and found not in (None, wanted):
        raise RecipeError(
            f"{path}: found a reward model of {found} outputs, expected {wanted}; the second is that of a safety head "
            "(safety_coefficient)"
        )
    return wanted or found or 1


def score_outputs(path: str) -> int | None:
    """Outputs of the score head in a local checkpoint or adapter; None where there is none to be seen."""
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith("score.weight"):
                    return tensors.get_slice(name).get_shape()[0]
    return None


def _keep_score(model: PreTrainedModel) -> None:
    """Leaves a critic the score alone of a reward model with a safety head."""
    if model.config.num_labels == 1:
        return
    score = torch.nn.Linear(model.score.in_features, 1, bias=model.score.bias is not None).to(model.score.weight)
    with torch.no_grad():
        score.weight.copy_(model.score.weight[:1])
        if score.bias is not None:
            score.bias.copy_(model.score.bias[:1])
    model.score, model.num_labels, model.config.num_labels = score, 1, 1


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on this process's device; trainers place theirs themselves."""
    return model.to(PartialState().device)


def load_reward_model(
    path: str, dtype: str = "auto", trust_remote_code: bool = False, attn_implementation: str | None = None
) -> RewardModel:
    """A reward model with the tokenizer saved beside it, on this process's device.

    Raises:
        RecipeError: no reward model, whose random head would give scores that mean nothing.
    """
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    options = {"trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation}
    model = load_model(path, "reward", tokenizer, False, dtype=dtype, **options)
    return RewardModel(on_device(model), tokenizer)


def check_reward_model(path: str) -> None:
    """Raises RecipeError where a local checkpoint can be seen to be no whole reward model, without loading it."""
    check_checkpoint(path, "reward", new_head=False)


def load_prompts(
    sources: list[dict],
    path: str,
    tokenizer,
    max_new_tokens: int,
    too_long: str,
    seed: int = 0,
    context: float | None = None,
) -> list[Prompt]:
    """Prompts that leave a model's context room for an answer; prints what was read and left out.

    Args:
        context: tokens, where not all of the model's are to be used.

    Raises:
        RecordError: a prompt too long for the context of the checkpoint at `path`, unless `too_long` is `"drop"`.
    """
    prompts, report = load_records(sources, "prompt", seed=seed)
    limit = (context or context_of(path)) - max_new_tokens
    kept, dropped = fitting_prompts(prompts, tokenizer, limit, too_long)
    say(f"{report}\n{len(kept)} prompts, {dropped} left out as {dropped.reason('max_new_tokens, context')}")
    return kept


def context_of(path: str, revision: str | None = None, trust_remote_code: bool = False) -> float:
    """Tokens of context of a checkpoint (of its base where it holds an adapter alone), or infinity."""
    if adapter := adapter_of(path, revision):
        check_base(adapter)
        return context_of(adapter.base, adapter.base_revision, trust_remote_code)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    return getattr(config, "max_position_embeddings", float("inf"))


def check_length(
    path: str, tokens: int | None, option: str, revision: str | None = None, trust_remote_code: bool = False
) -> None:
    """Raises RecipeError where rows of `tokens` tokens do not fit the context of the checkpoint at `path`."""
    check_checkpoint(path)
    context = context_of(path, revision, trust_remote_code)
    if tokens is None or tokens > context:
        raise RecipeError(f"{option}: found {tokens}, expected at most {context}, the context of {path}")

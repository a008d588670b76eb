"""Our likelihoods and samplers as a model of lm-evaluation-harness (extra `benchmarks`).

The harness makes the requests and scores them, in the main process alone. Tokens go the way of the token contract:
plain text begins with the begin of text and never becomes a control token, dialogs are rendered as in training.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from ..chat import ControlTokens, encode_answer, encode_text, render
from ..data import tokens_of
from ..sampling.engine import SamplingParams
from .computing import Computing

TAKEN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Dialog(str):
    """A dialog as the harness passes it on, with the messages that it stands for. open: the last one is continued."""

    messages: list[dict]
    open: bool

    @classmethod
    def of(cls, messages: list[dict], still_open: bool) -> "Dialog":
        found = cls(json.dumps(messages, ensure_ascii=False))
        found.messages, found.open = messages, still_open
        return found


class Harness(TemplateLM):
    """A checkpoint as the harness asks it.

    Args:
        context: tokens of prompt and answer together. chat: requests are dialogs. seed: of sampling.

    A context too long is cut at its beginning, as the harness's own models do; `cut` counts such requests of those
    `asked`, by task.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, computing: Computing, chat: bool = False, seed: int = 0
    ):
        super().__init__()
        self.tokenizer, self.context, self.computing, self.chat, self.seed = tokenizer, context, computing, chat, seed
        self.tokens = ControlTokens.of(tokenizer) if chat else tokens_of(tokenizer)
        self.cut: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return self.tokens.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self.eot_token_id if self.tokens.bos is None else self.tokens.bos

    @property
    def tokenizer_name(self) -> str:
        """As the harness's reports call it."""
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """Ids of plain text, behind the begin of text unless that is declined."""
        begin = [] if add_special_tokens is False or self.tokens.bos is None else [self.tokens.bos]
        return begin + encode_text(self.tokenizer, string)

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """The dialog, to be rendered when it is asked."""
        return Dialog.of(chat_history, not add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self.chat:
            return super()._encode_pair(context, continuation)
        ids = self._prompt(context)
        if not context.open:
            return ids, encode_answer(self.tokenizer, continuation, self.tokens, finished=False)
        *before, last = context.messages
        whole = Dialog.of([*before, last | {"content": last["content"] + continuation}], True)
        return ids, self._prompt(whole)[len(ids) :]

    def _prompt(self, context: str) -> list[int]:
        if not self.chat:
            return self.tok_encode(context) if context else [self.prefix_token_id]
        if not isinstance(context, Dialog):
            raise TypeError(f"request: found text {context[:60]!r}, expected a dialog: the harness changed it")
        how = {"continue_final_message": True} if context.open else {"add_generation_prompt": True}
        return render(self.tokenizer, context.messages, tokens=self.tokens, **how).ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See the harness."""
        self._asked = requests
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, **_) -> list[tuple[float, bool]]:
        rows = []
        for instance, (_, context, continuation) in zip(self._asked, requests, strict=True):
            rows.append(self._fitting(context, continuation, instance.task_name))
        return [tuple(found) for found in self.computing.likelihoods(rows)]

    def _fitting(self, context: list[int], continuation: list[int], task: str | None) -> tuple[list[int], int]:
        """Ids of both and how many are given; the last one is predicted alone, so that one more than fits is asked."""
        over = max(len(context) + len(continuation) - self.context - 1, 0)
        if over >= len(context):
            raise ValueError(f"{task}: found an answer of {len(continuation)} tokens, expected at most {self.context}")
        self.asked[task] += 1
        self.cut[task] += over > 0
        return context[over:] + continuation, len(context) - over

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """See the harness."""
        rows, owners = [], []
        for number, request in enumerate(requests):
            ids = encode_text(self.tokenizer, request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.context, 1)
            for context, continuation in map(make_disjoint_window, windows):
                rows.append((context + continuation, len(context)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, found in zip(owners, self.computing.likelihoods(rows), strict=True):
            sums[owner] += found.total
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See the harness."""
        texts: list[str] = [""] * len(requests)
        by_params: dict[SamplingParams, list[int]] = {}
        for i, request in enumerate(requests):
            by_params.setdefault(self._params(request), []).append(i)
        stop_ids = sorted(set(self.tokens.terminators) if self.chat else {self.eot_token_id})
        for params, members in by_params.items():
            rows = []
            for i in members:
                context, options = requests[i].args
                ids, until = self._prompt(context), options.get("until") or []
                room = self.context - params.max_new_tokens
                self.asked[requests[i].task_name] += 1
                self.cut[requests[i].task_name] += len(ids) > room
                rows.append((ids[-room:], [until] if isinstance(until, str) else until, i))
            for i, text in zip(members, self.computing.texts(rows, params, stop_ids), strict=True):
                texts[i] = text
        return texts

    def _params(self, request: Instance) -> SamplingParams:
        options: dict[str, Any] = request.args[1]
        if unknown := sorted(set(options) - set(TAKEN)):
            raise ValueError(f"{request.task_name}, generation_kwargs: found {unknown[0]}, expected {', '.join(TAKEN)}")
        longest = options.get("max_gen_toks", 256)
        if longest >= self.context:
            found = f"found max_gen_toks {longest}, expected fewer than {self.context}, the model's context"
            raise ValueError(f"{request.task_name}, generation_kwargs: {found}")
        kept = {name: options[name] for name in ("top_p", "top_k", "min_p", "repetition_penalty") if name in options}
        heat = float(options.get("temperature", 1.0)) if options.get("do_sample") else 0.0
        return SamplingParams(1, longest, heat, seed=self.seed, **kept)


def evaluated(
    model: LM, parts: Sequence[Task], limit: int | None = None, chat: bool = False, run: bool = False
) -> dict:
    """What the harness finds of a model, `samples` by task among it.

    As its `simple_evaluate`, which would read all of its own tasks' files first.
    """
    for part in parts:
        part.set_fewshot_seed(DEFAULT_OTHER_SEED)
    tasks = {part.task_name: part for part in parts}
    how = {"limit": limit, "apply_chat_template": chat, "fewshot_as_multiturn": chat, "confirm_run_unsafe_code": run}
    return evaluate(model, {"tasks": tasks, "groups": {}}, bootstrap_iters=1000, **how)

"""Measures checkpoints on the same held-out prompts and documents; the files are those of docs/design.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..data import Document, Prompt, fitting_prompts, text_ids, write_jsonl
from ..data.records import records_digest
from ..metrics import functional as metrics
from ..recipe import RecipeError, context_of, load_prompts, load_reward_model, load_tokenizer
from ..recipe.engines import EngineSettings
from ..rejection.judges import is_exact
from ..rewards.models import RewardModels
from ..runtime.files import write_json
from ..runtime.identity import checkpoint_digest, resolved_dtype, settings_digest
from ..sampling.dialogs import DialogSampler, Draft
from ..sampling.engine import SamplingParams
from ..sampling.likelihood import negative_log_likelihood
from ..sampling.memory import release
from ..sandbox.judge import is_unsafe, judge

DEFAULT = EngineSettings()
PER_ITEM = ("items", "rewards", "settings")
# options that no row depends on: the prompts, documents and judges themselves are compared, not their paths
NOT_MEASURED = ("output_dir", "models", "baseline", "datasets", "texts", "reward_models", "heldout_models", "sure")
TAKEN = ("metrics", "step")  # files that are no rows


def check_rows(models: dict[str, str], baseline: str | None) -> None:
    """Raises RecipeError for no rows, a name that cannot be that of a file of its own, or an unknown baseline."""
    if not models:
        raise RecipeError("models: found none, expected checkpoints by the name of their row")
    for row in models:
        if not isinstance(row, str) or row in TAKEN or row.startswith(".") or set(row) & set("/\\"):
            raise RecipeError(f"models: found {row!r}, expected the name of a file, other than {' or '.join(TAKEN)}")
    if baseline is not None and baseline not in models:
        raise RecipeError(f"baseline: found {baseline!r}, expected one of {', '.join(models)}")


@dataclass
class Evaluation:
    """What every checkpoint is measured on, and where the results go.

    judge: `sandbox` scores answers exactly, `none` does not. context: tokens of a document. settings: whatever else the
    numbers depend on. A row of other settings, prompts, texts or weights is measured again.
    """

    output_dir: str
    prompts: list[Prompt]
    texts: list[Document]
    judge: str
    rewards: RewardModels | None
    params: SamplingParams
    context: int
    settings: dict

    @classmethod
    def of(
        cls, args: Any, engine: EngineSettings, output_dir: str, texts: Sequence[Document] = (), context: int = 0
    ) -> "Evaluation":
        """What a recipe's arguments ask to be measured: prompts, judges and sampling, by the names of its options.

        Raises:
            RecipeError, RecordError: prompts too long for the first model, or what is no reward model.
        """
        first, prompts = next(iter(args.models.values())), []
        if args.datasets:
            room = (args.max_new_tokens, args.too_long)
            tokenizer = load_tokenizer(first)
            prompts = load_prompts(args.datasets, first, tokenizer, *room, context=engine.context(first))
        load = partial(load_reward_model, dtype=args.dtype)
        judges = args.reward_models
        return cls(
            output_dir=output_dir,
            prompts=prompts,
            texts=list(texts),
            judge=args.judge,
            rewards=RewardModels.load(judges, load, args.safety_threshold) if judges else None,
            params=SamplingParams(1, args.max_new_tokens, args.temperature, args.top_p, seed=args.seed),
            context=context,
            settings={k: v for k, v in vars(args).items() if k not in NOT_MEASURED}
            | {"judges": {name: checkpoint_digest(path) for name, path in judges.items()}},
        )

    def __post_init__(self):
        try:
            self.exact = is_exact(self.judge)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        if not self.prompts and not self.texts:
            raise RecipeError("datasets, texts: found neither, expected held-out prompts or documents")
        if self.exact and any(prompt.task is None for prompt in self.prompts):
            raise RecipeError("datasets: found a prompt without a task, expected the sandbox's held-out prompts")
        self._data = {"prompts": records_digest(self.prompts), "texts": records_digest(self.texts)}

    def _path(self, row: str) -> Path:
        return Path(self.output_dir) / f"{row}.json"

    def _identity(self, path: str) -> str:
        settings = {**self.settings, **self._data, "model": checkpoint_digest(path)}
        if "dtype" in settings:
            settings["dtype"] = resolved_dtype(settings["dtype"], path)
        return settings_digest(settings)

    def done(self, row: str, path: str) -> bool:
        """Whether these weights were measured before on the same data with the same settings."""
        try:
            return json.loads(self._path(row).read_text())["settings"] == self._identity(path)
        except (OSError, ValueError, KeyError, TypeError):  # absent, cut short, or not a row at all
            return False

    def measure(self, row: str, path: str, tokenizer, settings: EngineSettings = DEFAULT) -> dict:
        """Samples, judges and scores one checkpoint and writes `<row>.json` and `samples_<row>.jsonl`.

        Raises:
            RecordError: a prompt too long for this model. RecipeError: documents longer than its context.
        """
        limit = context_of(path)
        if self.texts and self.context > limit:
            raise RecipeError(f"context: found {self.context}, expected at most {limit} tokens, the context of {path}")
        result: dict = {"row": row, "model": Path(path).name, "settings": self._identity(path)}
        release()  # the checkpoint measured before
        model = None
        if self.prompts:
            fitting_prompts(self.prompts, tokenizer, settings.context(path) - self.params.max_new_tokens)
            model = settings.model(path, tokenizer)
            drafts = self._drafts(path, model, tokenizer, settings)
            result |= {"n": len(drafts), "length": _lengths(drafts)}
            result["endings"] = metrics.answer_endings([d.text for d in drafts], [int(d.finished) for d in drafts])
            verdicts = None
            if self.exact:
                verdicts = [judge(p.task, d.text, d.finished) for p, d in zip(self.prompts, drafts, strict=True)]
                result |= self._judged(verdicts)
            if self.rewards is not None:
                result["rewards"] = self._scores(drafts)
            self._write_samples(row, drafts, verdicts)
        if self.texts:
            # vLLM had the path of the model alone; here its memory is free again
            if not isinstance(model, torch.nn.Module):
                release()
                model = settings.load(path, tokenizer)
            ids = [ids[: self.context] for ids in text_ids([text.text for text in self.texts], tokenizer)]
            result["perplexity"] = metrics.token_perplexity(*negative_log_likelihood(model, ids))
        write_json(self._path(row), result)
        return result

    def _drafts(self, path: str, model, tokenizer, settings: EngineSettings) -> list[Draft]:
        sampler = DialogSampler(model, tokenizer, settings.engine, **settings.sampler_options(path))
        return [group[0] for group in sampler([p.messages for p in self.prompts], self.params, progress=True)]

    def _judged(self, verdicts: list) -> dict:
        unsafe = [is_unsafe(prompt.task) for prompt in self.prompts]
        safe_items = [i for i, flag in enumerate(unsafe) if not flag]
        items = [int(verdicts[i].helpful) for i in safe_items]
        families = [self.prompts[i].task["family"] for i in safe_items]
        safety = metrics.refusal_rate(
            [int(flag) for flag in unsafe], [int(v.refused) for v in verdicts], [int(v.violation) for v in verdicts]
        )
        score = {"score": metrics.exact_score(items, families) | {"items": items}} if items else {}
        return score | {"safety": safety}

    def _scores(self, drafts: list[Draft]) -> dict[str, list[float]]:
        scores = self.rewards(
            [p.messages for p in self.prompts],
            [d.answer for d in drafts],
            [d.finished for d in drafts],
            [{"objective": p.objective} for p in self.prompts],
        )
        return {name: [round(value, 6) for value in values] for name, values in scores.items()}

    def _write_samples(self, row: str, drafts: list[Draft], verdicts: list | None) -> None:
        rows = []
        for i, (prompt, draft) in enumerate(zip(self.prompts, drafts, strict=True)):
            sample = {"prompt": prompt.messages, "completion": draft.answer, "finished": draft.finished}
            if prompt.task is not None:
                sample["task"] = prompt.task
            if verdicts is not None:
                v = verdicts[i]
                sample |= {"helpful": v.helpful, "violation": v.violation, "false_refusal": v.false_refusal}
            rows.append(sample)
        write_jsonl(Path(self.output_dir) / f"samples_{row}.jsonl", rows)

    def summary(self, rows: list[str], baseline: str | None) -> dict:
        """All rows together, written to `metrics.json`.

        Win rates are against the baseline, or without one against the row before; differences are from both.
        """
        full = {row: json.loads(self._path(row).read_text()) for row in rows}
        main = self.rewards.main if self.rewards else None
        short = []
        for previous, result in zip([None, *rows], full.values(), strict=False):
            against = baseline or previous
            kept = {key: value for key, value in result.items() if key not in PER_ITEM}
            if "score" in kept:
                kept["score"] = {k: v for k, v in kept["score"].items() if k not in PER_ITEM}
            if main and against not in (None, result["row"]) and "rewards" in result:
                won = metrics.win_rate(result["rewards"][main], full[against]["rewards"][main])
                kept["win_rate"] = {"against": against} | won
            short.append(kept)
        pairs = [*pairwise(rows), *((baseline, row) for row in rows if baseline)]
        differences = [
            {"from": a, "to": b} | metrics.paired_difference(full[a]["score"]["items"], full[b]["score"]["items"])
            for a, b in dict.fromkeys(pairs)
            if a != b and "score" in full[a] and "score" in full[b]
        ]
        summary = {"rows": short, "differences": differences} | ({"baseline": baseline} if baseline else {})
        if self.prompts:
            summary["decoding"] = {"temperature": self.params.temperature, "top_p": self.params.top_p}
        write_json(Path(self.output_dir) / "metrics.json", summary)
        return summary


def _lengths(drafts: list[Draft]) -> dict:
    finished = sum(draft.finished for draft in drafts)
    return {
        "mean_tokens": round(sum(draft.tokens for draft in drafts) / len(drafts), 3),
        "finished": round(finished / len(drafts), 4),
    }

"""Checkpoints measured on benchmarks: one file per checkpoint, and all of them together."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

try:
    import lm_eval
except ImportError as error:
    raise ImportError("benchmarks need lm-evaluation-harness: pip install 'llama_align[benchmarks]'") from error

from ..curation.decontaminate import Overlap, texts_of
from ..data import write_jsonl
from ..data.opening import expand, open_rows
from ..data.records import RecordError
from ..recipe import load_tokenizer
from ..recipe.engines import EngineSettings
from ..runtime.files import write_json, write_text
from ..runtime.identity import checkpoint_digest, lines_digest, resolved_dtype, settings_digest
from ..runtime.processes import Group
from ..sampling.memory import release
from .catalogue import Settings, Task
from .computing import Computing
from .harness import Harness, evaluated
from .scores import groups_of, markdown, scores_of
from .tasks import load_tasks

ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function, another in every process


@dataclass
class Benchmarks:
    """What every checkpoint is measured on, and where the results go.

    names: of tasks and groups. limit: items of each part of a task. chat: items are dialogs. trained_on: files whose
    13-grams are looked for among the items.
    """

    output_dir: Path
    names: Sequence[str]
    settings: Settings
    engine: EngineSettings
    group: Group
    limit: int | None = None
    chat: bool = False
    trained_on: Sequence[str] = ()
    seed: int = 0
    tasks: list[Task] = field(init=False)

    def __post_init__(self):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.tasks = load_tasks(self.names, self.settings)

    @cached_property
    def overlaps(self) -> list[np.ndarray | None]:
        """By task, which items share 13 words with a text that was trained on; None where no files are named."""
        if not self.trained_on:
            return [None] * len(self.tasks)
        docs = [task.docs(self.limit) for task in self.tasks]
        overlap = Overlap([doc for of_task in docs for doc in of_task])
        for file in self.trained_on:
            for _, row in open_rows(file):
                if isinstance(row, RecordError):
                    raise row
                overlap.read(texts_of(row))
        return np.split(overlap.found, np.cumsum([len(of_task) for of_task in docs])[:-1])

    @cached_property
    def _asked(self) -> dict:
        """Digests of items, of how each task asks, and of the training files."""
        docs = (json.dumps(doc, sort_keys=True, default=str) for task in self.tasks for doc in task.docs(self.limit))
        how = [json.dumps([task.name, task.parts[0].dump_config()], default=str) for task in self.tasks]
        trained_on = {}
        for file in self.trained_on:
            with open(expand(file), "rb") as read:
                trained_on[file] = hashlib.file_digest(read, "sha256").hexdigest()
        how = [ADDRESS.sub("", one) for one in how]
        return {"items": lines_digest(docs), "tasks": lines_digest(how), "trained_on": trained_on}

    def _identity(self, path: str) -> str:
        engine = self.engine.identity | {"dtype": resolved_dtype(self.engine.dtype, path)}
        how = {"limit": self.limit, "chat": self.chat, "seed": self.seed, "engine": engine} | vars(self.settings)
        return settings_digest(how | self._asked | {"harness": lm_eval.__version__, "model": checkpoint_digest(path)})

    def done(self, name: str, path: str) -> bool:
        """Whether these weights were measured before on the same tasks with the same settings."""
        try:
            return json.loads(self._file(name).read_text())["settings"] == self._identity(path)
        except (OSError, ValueError, KeyError, TypeError):  # absent, cut short, or of something else
            return False

    def _file(self, name: str) -> Path:
        return self.output_dir / f"{name}.json"

    def row(self, name: str) -> dict:
        """What was measured of a checkpoint."""
        found = json.loads(self._file(name).read_text())
        return {key: value for key, value in found.items() if key != "settings"}

    def measure(self, name: str, path: str) -> None:
        """Measures one checkpoint on all processes; the main one writes `<name>.json` and `samples_<name>.jsonl`."""
        release()  # the checkpoint measured before
        tokenizer = load_tokenizer(path, dialogs=self.chat)
        computing = Computing(path, tokenizer, self.engine, self.group)
        if not self.group.is_main:
            computing.serve()
            return
        # vLLM reads the last token, too, and draws one more
        context = int(self.engine.context(path)) - (2 if self.engine.engine == "vllm" else 0)
        model = Harness(tokenizer, context, computing, self.chat, self.seed)
        parts = [part for task in self.tasks for part in task.parts]
        results = evaluated(model, parts, self.limit, self.chat, self.settings.run)
        computing.done()
        scored = {}
        for task, overlap in zip(self.tasks, self.overlaps, strict=True):
            scored[task.name] = scores_of(task, results, overlap)
            asked, cut = (sum(count[part.task_name] for part in task.parts) for count in (model.asked, model.cut))
            if cut:
                scored[task.name]["cut"] = cut / asked
        found = {"name": name, "model": Path(path).name, "settings": self._identity(path), "chat": self.chat}
        rows = [
            {"task": part, "doc_id": sample["doc_id"], "answers": sample["filtered_resps"]}
            | {metric: sample[metric] for metric in sample["metrics"]}
            for part, samples in results["samples"].items()
            for sample in samples
        ]
        write_jsonl(self.output_dir / f"samples_{name}.jsonl", rows)
        write_json(self._file(name), found | {"tasks": scored, "groups": groups_of(scored, self.settings.hub)})

    def summary(self, names: Sequence[str]) -> None:
        """All checkpoints together in `metrics.json`, and the papers' table, also in `table.md`."""
        metrics = {"checkpoints": [self.row(name) for name in names], "trained_on": list(self.trained_on)}
        write_json(self.output_dir / "metrics.json", metrics)
        write_text(self.output_dir / "table.md", markdown(metrics))

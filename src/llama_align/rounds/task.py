"""One step of a run as it is executed: its folder made ready, its command, and the record that says it is finished.

Knows nothing of the plan it comes from, so that it can be written down and executed elsewhere.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ..recipe import STOPPED, STOPPED_EARLY, WAITS_FOR_PEOPLE, RecipeError
from ..runtime.files import write_json, write_text
from ..runtime.trackers import CHOICE, track_round
from .code import code_of
from .inputs import KEPT, Digests, changed_file
from .outputs import MARKER, check_outputs, outputs, outputs_digest, read_marker
from .plan import Identity

RESUMABLE = "resume_from_checkpoint"


@dataclass(frozen=True)
class Task:
    """One step with all that it takes to execute it.

    script: of its recipe. launch: accelerate configuration, none: one process of Python's. inputs: the folders of the
    steps that it refers to, by name. config: without what a step that goes on is told beside it. tracker: where its
    curves go; None: where this process' environment says.
    """

    name: str
    folder: Path
    script: Path
    launch: str | None
    identity: Identity
    inputs: dict[str, Path]
    config: dict[str, Any]
    tracker: str | None = None

    def is_finished(self) -> bool:
        """Whether it has run to its end. Raises RecipeError for a `step.json` that is not readable."""
        marker = read_marker(self.folder)
        return marker is not None and marker["identity"] == self.identity.whole

    def prepare(self, shared: bool = False) -> None:
        """Makes its folder ready for the command.

        Args:
            shared: others are at work in it.

        Raises:
            RecipeError: an output of a step that it refers to is missing or has changed, or its code or a file that it
                names is not what its identity says.
        """
        for name, made in self.inputs.items():  # hours may have passed since they were looked at
            check_outputs(name, made)
        other = changed_file(self.identity.files, Digests(self.folder.parent / KEPT))
        if other or code_of(self.script.resolve()) != self.identity.code:
            raise RecipeError(
                f"step {self.name!r}: {other or 'its code'} has changed since this run was begun, and with it what the "
                "step is; run the same command again"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if shared:
            self._write_config({})
            return
        # nobody else writes here; a score cache may have other runs at work and looks after its own
        remove_parts(
            part for part in self.folder.rglob("*.part") if "scores" not in part.relative_to(self.folder).parts
        )
        (self.folder / STOPPED).unlink(missing_ok=True)
        self._write_config({RESUMABLE: "last"} if any(self.folder.glob("checkpoint-*")) else {})

    @property
    def command(self) -> list[str]:
        """What is to be started."""
        script = [str(self.script), "--config", str(self.folder / "config.yaml")]
        if self.launch is None:  # one process needs no launcher, which would import everything once more
            return [sys.executable, *script]
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", self.launch, *script]

    @property
    def environment(self) -> dict[str, str]:
        """What its processes have beside this one's environment."""
        return {} if self.tracker is None else {CHOICE: self.tracker}

    def stopped_early(self, code: int) -> bool:
        """Whether it was asked to stop and did, whatever exit code a launcher has made of that."""
        return code in (STOPPED_EARLY, WAITS_FOR_PEOPLE) or (self.folder / STOPPED).is_file()

    def finish(self, seconds: float) -> None:
        """Writes the record that says it is finished, and its point among the rounds."""
        self._write_config({})  # as of a step that was never resumed
        marker = {"identity": self.identity.whole, "settings": self.identity.settings, "code": self.identity.code}
        marker |= {"files": self.identity.files, "seconds": round(seconds, 1)}
        marker["inputs"] = {name: outputs_digest(made) for name, made in self.inputs.items()}
        write_json(self.folder / MARKER, marker | {"outputs": outputs(self.folder)})
        track_round(self.tracker or os.environ.get(CHOICE, "none"), self.folder.parent, self.name)

    def _write_config(self, more: dict) -> None:
        config = self.config | {"output_dir": str(self.folder)} | more
        write_text(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def write(self, path: Path) -> None:
        """Writes it down."""
        write_json(path, json.loads(json.dumps(asdict(self), default=str)))

    @classmethod
    def read(cls, path: Path) -> "Task":
        """Reads what `write` has written."""
        found = json.loads(path.read_text("utf-8"))
        found["identity"] = Identity(**found["identity"])
        found["inputs"] = {name: Path(made) for name, made in found["inputs"].items()}
        return cls(**found | {"folder": Path(found["folder"]), "script": Path(found["script"])})


def remove_parts(parts) -> None:
    """Removes files that a process left unfinished."""
    for part in parts:
        with suppress(OSError):
            part.unlink()

"""`run.json`: what a run of rounds says of its steps, as the round manager writes it and all else reads it."""

import json
from pathlib import Path
from typing import Any

OVERVIEW = "run.json"


def read_overview(directory: Path) -> dict[str, Any]:
    """The run's `name`, `seed` and `steps`, a row each with `name`, `directory` and `status`.

    Raises:
        FileNotFoundError: no such file. ValueError: it holds no such rows, naming the file.
    """
    path = directory / OVERVIEW
    try:
        found = json.loads(path.read_text("utf-8"))
        str(found["name"]), [(row["name"], row["directory"], row["status"]) for row in found["steps"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: found no list of steps ({error!r}), expected a run's overview") from error
    return found

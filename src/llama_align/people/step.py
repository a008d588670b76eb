"""A batch as a step of a programme: prepared once, open until people have filled it, then what came out."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ..data import write_jsonl
from ..recipe import RecipeError, say, write_json
from ..recipe.errors import WAITS, WaitsForPeople
from ..runtime.identity import settings_digest
from . import statistics
from .batch import FOLDER, SETTINGS, Batch, Item, Settings
from .export import preferences
from .store import PREFERENCES, Store


def prepared(folder: str | Path, options: dict) -> bool:
    """Whether there is a batch made with these options.

    Raises:
        RecipeError: there is one made with others.
    """
    if not (Path(folder) / FOLDER / SETTINGS).is_file():
        return False
    if Batch.read(folder).settings.made_with != settings_digest(options):
        raise RecipeError(
            f"output_dir: found a batch made with other options in {folder}, expected another folder; what people have "
            "answered there stays"
        )
    return True


def prepare(folder: str | Path, settings: Settings, items: dict[str, Item], options: dict) -> None:
    """Writes a batch. options: all that it was made with."""
    if not items:
        raise RecipeError(
            "annotator: found no pair of answers that differ and no own_prompts, expected some for people"
        )
    settings = Settings(**asdict(settings) | {"made_with": settings_digest(options)})
    Batch(settings, items).write(Path(folder))


def finish_or_wait(folder: str | Path) -> None:
    """Writes preferences.jsonl and metrics.json when the batch is full.

    Raises:
        WaitsForPeople: it is not.
    """
    folder = Path(folder)
    store = Store(folder)
    done, needed = store.done()
    if not store.full:
        write_json(folder / WAITS, {"done": done, "of": needed, "by": "people"})
        raise WaitsForPeople(f"waits for people: {done} of {needed} done; llama-align people serve {folder}")
    rows = preferences(store)
    write_json(folder / "metrics.json", metrics(store) | {"preferences": len(rows)})
    write_jsonl(folder / PREFERENCES, rows)
    (folder / WAITS).unlink(missing_ok=True)
    say(f"{len(rows)} preferences of {len(statistics.people(store))} people")


def metrics(store: Store) -> dict:
    """What a report reads of a batch."""
    everybody, agreed = statistics.people(store), statistics.agreement(store)
    alpha = agreed["preference and grade"]
    found = {"people": len(everybody), "skipped": sum(one.skipped for one in everybody)}
    found |= {"sent_back": len(store.sent_back()), "shared_items": alpha.items, "alpha": alpha.alpha}
    found |= {"alpha_low": alpha.interval and alpha.interval[0], "alpha_high": alpha.interval and alpha.interval[1]}
    grades = Counter(work.grade for work in store.works("state = 'answered'") if work.item.gold is None)
    return found | {"grades": dict(sorted(grades.items()))}

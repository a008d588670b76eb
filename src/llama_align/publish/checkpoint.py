"""One checkpoint, published: its files, its card as it reads there, in one commit."""

import os
from dataclasses import replace
from pathlib import Path

from ..models.tensor_files import read_object
from ..runtime.identity import ADAPTER, adapter_base, hub_file
from ..runtime.shipped import shipped
from .card import Place, render
from .files import MADE, Item, check_item, checkpoint_items, is_herd
from .hub import Target, address, commit, prepare
from .licences import LLAMA, Origin, check_terms
from .made import Made, auto_of, history


def publish_checkpoint(folder: str | Path, target: Target) -> str:
    """Publishes a checkpoint and returns its address.

    Raises:
        ValueError: see `items_of` and `hub.prepare`.
    """
    folder = Path(folder)
    made = made_of(folder)
    checkpoint_items(folder, target.base)  # before anything is made on the Hub
    repo = prepare(target, origin_of(made, target))
    items = items_of(folder, replace(target, repo=repo), made)
    commit(repo, items, f"{folder.resolve().name}, by llama_align", target.revision)
    return address(repo)


def made_of(folder: Path) -> Made:
    """How a checkpoint came to be; of one that no recipe of ours left, what its configuration says."""
    if made := Made.read(folder):
        return made
    adapter, auto = (folder / ADAPTER).is_file(), auto_of(folder)
    earlier, origin = history(adapter_base(folder) or "") if adapter else ([], Origin.of_folder(folder))
    metrics = read_object(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    made = Made(
        what="An adapter." if adapter else "A language model." if auto.endswith("LM") else "A reward model.",
        auto=auto,
        tags=["llama-align", *(["adapter"] if adapter else [])],
        earlier=earlier,
        origin=origin,
    )
    made.facts.metrics = metrics
    return made


def items_of(folder: Path, target: Target, made: Made, place: Place | None = None, hide: str = "") -> list[Item]:
    """All files of a checkpoint as they will be on the Hub, its card and the texts its licence asks for among them.

    Args:
        place: of the card, with what only the caller knows. hide: a folder whose name is left out of paths.

    Raises:
        ValueError: no whole checkpoint, an adapter on a base that only this machine has, a token in a file, or what the
            licence asks is not kept.
    """
    items = {item.path: item for item in checkpoint_items(folder, target.base)}
    made = replace(made, origin=origin_of(made, target))
    licence = check_terms(made.origin, target.repo, target.licence)
    texts = made.origin.texts() if made.origin else {}
    items |= {name: Item(name, path) for name, path in texts.items() if name not in items}
    if terms := LLAMA.get(licence or ""):
        if not any(name.startswith("LICENSE") for name in items):
            raise ValueError(
                f"{folder}: found no LICENSE, expected the text of {licence}, which must go with every copy; put it "
                "there"
            )
        items.setdefault("NOTICE", Item("NOTICE", terms.notice.encode()))
    if MADE in items:
        items[MADE] = Item(MADE, shown(items[MADE].content.decode(), hide).encode())
    for kind in made.facts.data:
        if card := data_card(kind):
            items[f"data_cards/{kind}.md"] = Item(f"data_cards/{kind}.md", card)
    place = place or Place(target.repo.split("/")[-1], target.repo, target.revision)
    listed = sorted(items.values(), key=lambda item: item.path)
    place = replace(
        place,
        loads="code" if is_herd(folder) or _on_herd(folder, target.base) else "plain",
        published=True,
        licence=licence,
        files={item.path: (item.size, item.sha256) for item in listed if item.weights or item.path.startswith("token")},
    )
    card = Item("README.md", shown(render(made, place), hide).encode())
    check_item(card, folder)
    return [card, *listed]


def origin_of(made: Made, target: Target) -> Origin | None:
    """What a checkpoint began with. Of an adapter it has the name of its base on the Hub; where no licence is known, as
    of a run without a network, the card there is read now."""
    kept = made.origin
    name = target.base or (kept and kept.base_model)
    if not name or (kept and kept.licence and not target.base):
        return kept
    found = Origin.on_hub(name)
    return replace(kept, base_model=name, card=kept.card if kept.licence else found.card) if kept else found


def data_card(kind: str) -> Path | None:
    """The card of a kind of records."""
    path = shipped("data_cards") / f"{kind}.md"
    return path if path.is_file() else None


def _on_herd(folder: Path, named: str | None) -> bool:
    """Whether an adapter stands on a LlamaHerd, whose code comes with its base.

    Args:
        named: its base on the Hub, where the adapter names none or a folder.
    """
    base = (named or adapter_base(folder)) if (folder / ADAPTER).is_file() else None
    file = base and hub_file(base, "config.json", None)
    return bool(file) and is_herd(Path(file).parent)


def shown(text: str, hide: str = "") -> str:
    """Text without the names of folders of this machine: those of a run, of the working and of the home directory."""
    for folder, short in ((hide, ""), (os.getcwd(), ""), (str(Path.home()), "~/")):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", short)
    return text

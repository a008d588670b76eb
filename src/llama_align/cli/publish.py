"""`llama-align publish SOURCE --to user/name`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..publish.files import Item

DESCRIPTION = """\
Publish a checkpoint, a whole programme of rounds, or records on the Hub: private unless --public, with a card, and of
the files in SOURCE only those that --dry-run lists.

SOURCE is the folder of a checkpoint or adapter; a run's folder, which becomes one repository with a branch per round
and a tag per stage, and data sets NAME-preferences and NAME-samples; or files of records.

Run again, it sends what is missing or has changed. The token is that of HF_TOKEN or of `hf auth login`.
"""
EXAMPLES = """\
examples:
  what would be sent
    llama-align publish runs/dpo --to ada/herd-nano-dpo --dry-run

  all rounds of a programme
    llama-align publish runs/llama2 --to ada/herd-nano-llama2 --license apache-2.0
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description, one.epilog = DESCRIPTION, EXAMPLES
    one.add_argument("source", metavar="SOURCE", nargs="+", help="a checkpoint's or run's folder, or files of records")
    one.add_argument("--to", required=True, metavar="USER/NAME", help="the repository, made where there is none")
    one.add_argument("--revision", metavar="BRANCH", help="a branch instead of main")
    one.add_argument("--license", metavar="ID", help="as the Hub calls it, where the base's card says none")
    one.add_argument("--base", metavar="USER/NAME", help="where the base of an adapter is on the Hub")
    one.add_argument("--gated", choices=("auto", "manual"), help="who may download has to ask (default: as the base)")
    one.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    one.add_argument("--no-data", action="store_true", help="of a run no preferences and samples")
    one.add_argument("--dry-run", action="store_true", help="list the files with their sizes and send nothing")


def main(options: argparse.Namespace) -> None:
    from huggingface_hub.errors import HTTPError

    try:
        print(publish(**vars(options)))
    except OSError:  # refusals of the Hub, which say all
        raise
    except HTTPError as error:  # a connection that broke
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"the Hub no longer answers ({said}); the same command goes on") from error


def publish(
    source: list[str],
    to: str,
    revision: str | None = None,
    license: str | None = None,
    base: str | None = None,
    gated: str | None = None,
    public: bool = False,
    no_data: bool = False,
    dry_run: bool = False,
) -> str:
    """Publishes and says where, or with `dry_run` what; see `add_options`.

    Raises:
        ValueError: what cannot be published, or options that say nothing about it.
    """
    # which take seconds to import
    from ..publish.checkpoint import items_of, made_of, publish_checkpoint
    from ..publish.datasets import dataset_items, parts_of, publish_dataset
    from ..publish.files import is_checkpoint
    from ..publish.hub import Target
    from ..publish.programme import listing, publish_programme
    from ..runtime.overview import OVERVIEW

    target = Target(to, revision, public, license, base, gated)
    folder = Path(source[0])
    if all(Path(path).is_file() for path in source):
        files = parts_of([Path(path) for path in source])
        if len(files) < len(source) or base:
            raise ValueError(f"source: found {len(source)} files of records, expected names that differ, and no --base")
        if dry_run:
            return _listed({to: dataset_items(files, to, license)})
        return publish_dataset(files, target)
    if len(source) > 1 or not folder.is_dir():
        raise ValueError(f"source: found {' '.join(source)}, expected one folder, or files of records")
    if (folder / OVERVIEW).is_file():
        if dry_run:
            return _listed(listing(folder, target, not no_data))
        return "\n".join(publish_programme(folder, target, not no_data))
    if no_data:
        raise ValueError("no-data: found it for a checkpoint, expected a run's folder")
    if not is_checkpoint(folder):
        raise ValueError(f"{folder}: found neither weights with a configuration nor {OVERVIEW}, expected one of them")
    if dry_run:
        return _listed({to: items_of(folder, target, made_of(folder))})
    return publish_checkpoint(folder, target)


def _listed(repositories: dict[str, list["Item"]]) -> str:
    lines = []
    for name, items in repositories.items():
        lines += [f"{name}: {len(items)} files, {sum(item.size for item in items):,} bytes"]
        lines += [f"{item.size:>16,}  {item.path}" for item in items]
    return "\n".join(lines)

"""What a model of others asks of what is made from it: licence, name, notice, gate."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..models.tensor_files import LICENCES
from ..runtime.identity import hub_file

PREFIX = "extra_gated_"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Terms:
    """Of a licence: how names begin, what the page says, what a file NOTICE says, and its name."""

    name: str
    prefix: str = ""
    built_with: str = ""

    @property
    def notice(self) -> str:
        """The text that must go with every copy."""
        rights = "Meta Platforms, Inc. All Rights Reserved."
        return f"{self.name} is licensed under the {self.name} Community License, Copyright © {rights}\n"


# section 1.b.i and 1.b.iii of each licence; Llama 2's has a notice and no rule for names
LLAMA = {
    "llama2": Terms("Llama 2"),
    "llama3": Terms("Meta Llama 3", "Llama 3", "Built with Meta Llama 3"),
    "llama3.1": Terms("Llama 3.1", "Llama", "Built with Llama"),
    "llama3.2": Terms("Llama 3.2", "Llama", "Built with Llama"),
    "llama3.3": Terms("Llama 3.3", "Llama", "Built with Llama"),
    "llama4": Terms("Llama 4", "Llama", "Built with Llama"),
}


@dataclass
class Origin:
    """The model of others that a chain began with, as far as its card says.

    Args:
        base_model: its name on the Hub. card: of its card's fields those that are handed on.
    """

    base_model: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None

    @classmethod
    def on_hub(cls, name: str) -> "Origin":
        """A name on the Hub, its card from the cache or the Hub."""
        return cls(name, _card_on_hub(name)) if HUB_NAME.fullmatch(name) else cls(folder=name)

    @classmethod
    def of_folder(cls, folder: Path) -> "Origin":
        """A folder that was downloaded."""
        return cls(None, front_matter(folder / "README.md"), str(folder))

    @property
    def licence(self) -> str | None:
        """The licence by the Hub's name for it; a card's list of several with commas, which is no licence's name."""
        found = self.card.get("license")
        found = ", ".join(map(str, found)) if isinstance(found, list) else found
        name = self.card.get("license_name")
        return name if found == "other" and name in LLAMA else found

    def texts(self) -> dict[str, Path]:
        """The files that say what may be done with it, by name, as far as they lie here."""
        if self.folder and Path(self.folder).is_dir():
            return {file.name: file for rule in LICENCES for file in sorted(Path(self.folder).glob(rule))}
        names = ("LICENSE", "LICENSE.txt", "USE_POLICY.md", "NOTICE") if self.base_model else ()
        files = {name: hub_file(self.base_model, name, None) for name in names}
        return {name: Path(file) for name, file in files.items() if file}


@cache
def _card_on_hub(name: str) -> dict[str, Any]:
    file = hub_file(name, "README.md", None)
    return front_matter(Path(file)) if file else {}


KEPT = ("license", "license_name", "license_link", "language")


def front_matter(path: Path) -> dict[str, Any]:
    """Of the YAML that a card begins with, what is handed on to models made from this one."""
    try:
        text = path.read_text("utf-8")
        found = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):  # a card of nobody's form says nothing
        return {}
    kept = found if isinstance(found, dict) else {}
    return {key: value for key, value in kept.items() if key in KEPT or key.startswith(PREFIX)}


def check_terms(origin: Origin | None, repo: str, licence: str | None) -> str | None:
    """The licence of what is published as `repo`.

    Args:
        licence: what the user says, where the origin says nothing.

    Raises:
        ValueError: no licence is known of a model of others, another is given than it has, or its rule for names is
            broken.
    """
    inherited = origin.licence if origin else None
    if inherited and "," in inherited:
        raise ValueError(
            f"licence: found {inherited} of what this was made from, expected one; what they ask together is not for a "
            "program to say"
        )
    if inherited and licence not in (None, inherited):
        raise ValueError(f"licence: found {licence}, expected {inherited}, that of {origin.base_model or 'the base'}")
    found = inherited or licence
    if origin and not found:
        raise ValueError(
            f"licence: found none on the card of {origin.base_model or origin.folder}, which this was made from, "
            "expected one there, or --license of `llama-align publish`, as the Hub calls it"
        )
    terms = LLAMA.get(found or "")
    name = repo.split("/")[-1]
    if terms and not name.replace("-", " ").replace("_", " ").startswith(terms.prefix):
        start = terms.prefix.replace(" ", "-")
        raise ValueError(f"name: found {repo}, expected a name that begins with {start}, as the licence {found} asks")
    return found

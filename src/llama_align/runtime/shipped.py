"""Files that come with the package: recipes with their YAMLs, accelerate configurations, data cards.

In a checkout they stand at its top; a wheel has them inside the package, where setup.py puts them.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONFIGS = "accelerate_configs"


def shipped(kind: str) -> Path:
    """The folder `recipes`, `accelerate_configs` or `data_cards`."""
    inside = PACKAGE / "files"
    return (inside if inside.is_dir() else PACKAGE.parents[1]) / kind


def launch_file(name: str) -> Path | None:
    """The accelerate configuration that a path names, or one that comes with the package: `zero3` or
    `accelerate_configs/zero3.yaml`. None: there is no such file."""
    path = Path(name)
    own = shipped(CONFIGS) / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.is_file():
        return path
    return own if str(path.parent) in (".", CONFIGS) and own.is_file() else None


def scripts() -> dict[str, Path]:
    """The recipes' scripts by name."""
    return {path.stem: path for path in sorted(shipped("recipes").glob("*.py"))}

"""Pictures that a notebook shows and that are saved as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..report import figures
from ..report.sections import Picture

__all__ = ["Picture", "Pictures", "lines"]


@dataclass(frozen=True, repr=False)
class Pictures:
    """Pictures as SVG, with their titles."""

    pictures: Sequence[Picture]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, title: str) -> Picture:
        """One of them. Raises KeyError for a title that none has."""
        return {picture.title: picture for picture in self.pictures}[title]

    @property
    def titles(self) -> list[str]:
        """Of all, in order."""
        return [picture.title for picture in self.pictures]

    def save(self, folder: str | Path) -> list[Path]:
        """Writes each as an SVG file of its own, named by its title."""
        paths = []
        for picture in self.pictures:
            name = "".join(letter if letter.isalnum() else "-" for letter in picture.title.lower())
            paths.append(Path(folder) / f"{name}.svg")
            paths[-1].write_text(figures.standalone(picture.svg), encoding="utf-8")
        return paths

    def _repr_svg_(self) -> str:
        return figures.sheet([(picture.title, picture.svg) for picture in self.pictures])

    def __repr__(self) -> str:
        return f"Pictures({', '.join(self.titles)})"


def lines(
    title: str, values: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log: bool = False
) -> Picture:
    """A picture of lines by name, (places, values) each, with the names of the axes.

    Args:
        log: places as powers of two.
    """
    return Picture(title, figures.lines(title, values, x, y, log))

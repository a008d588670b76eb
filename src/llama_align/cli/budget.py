"""`llama-align budget`."""

import argparse
from pathlib import Path

from ..runtime.files import write_text
from ..sizes.budget import budget
from ..sizes.command import add_options

__all__ = ["add_options", "main"]


def main(options: argparse.Namespace) -> None:
    """Prints the budget, and draws its picture where one is asked for."""
    asked = vars(options)
    picture = asked.pop("picture")
    found = budget(**asked)
    if picture:
        from ..report.budget import budget_picture  # which takes seconds to import
        from ..report.figures import standalone

        write_text(Path(picture), standalone(budget_picture(found)))
    print(found)

"""`llama-align chat`."""

import argparse

from ..talk.options import add_options

__all__ = ["add_options", "main"]


def main(options: argparse.Namespace) -> int:
    from ..talk.command import main as chat  # imports what answers

    return chat(options)

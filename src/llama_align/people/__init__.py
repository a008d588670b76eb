"""Preferences from people: a batch of pairs, a page that shows them, and what came out, by Llama 2's protocol.

What is imported from here needs no web server; `command.py` and `app.py` do.
"""

from .batch import Batch, Candidate, Item, Settings, make_items, read_guidelines
from .options import PeopleOptions, ask_people
from .step import finish_or_wait, prepare, prepared

__all__ = [
    "Batch",
    "Candidate",
    "Item",
    "PeopleOptions",
    "Settings",
    "ask_people",
    "finish_or_wait",
    "make_items",
    "prepare",
    "prepared",
    "read_guidelines",
]

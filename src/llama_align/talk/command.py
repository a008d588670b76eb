"""`llama-align chat`: loads who answers and who scores, and reads lines."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from transformers.utils import logging

from ..recipe import EngineSettings, RecipeError, check_checkpoint, check_reward_model, exit_code, load_reward_model
from ..rewards.models import RewardModels
from ..sampling import SamplingParams
from .found import Found, find
from .screen import Screen
from .session import Session, Speaker


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the process's exit code."""
    return exit_code(lambda: _main(options), "nothing was kept but what /save wrote")


def _main(options: argparse.Namespace) -> None:
    with nullcontext() if options.verbose else _only_the_conversation():
        session = make_session(options)
        for line in _lines():
            if not session.line(line):
                break


@contextmanager
def _only_the_conversation() -> Iterator[None]:
    """Nothing of transformers below errors meanwhile; a caller in the same process has its own again afterwards."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def make_session(options: argparse.Namespace, screen: Screen | None = None) -> Session:
    """A conversation as the options of the command ask for it.

    Raises:
        RecipeError: what is no checkpoint of a language model, or no reward model.
    """
    params = SamplingParams(1, options.max_new_tokens, options.temperature, options.top_p, seed=options.seed)
    settings = EngineSettings(dtype=options.dtype)
    found = [find(place) for place in (options.model, options.against) if place is not None]
    judges = _judges(options, found)
    for path in judges.values():
        check_reward_model(path)
    for one in found:
        check_checkpoint(one.path, "causal")
    speakers = [Speaker(one.name, settings.sampler(one.path), settings.context(one.path)) for one in found]
    rewards = RewardModels.load(judges, lambda path: load_reward_model(path, options.dtype)) if judges else None
    return Session(speakers, params, screen or Screen(), rewards, options.system)


def _judges(options: argparse.Namespace, found: list[Found]) -> dict[str, str]:
    if options.reward_models is None:
        return next((one.reward_models for one in found if one.reward_models), {})
    named = dict(options.reward_models)
    if len(named) < len(options.reward_models):
        raise RecipeError(f"reward_models: found a name twice among {len(options.reward_models)}, expected each once")
    return named


def _lines() -> Iterator[str]:
    """Lines of a pipe as they come, or typed behind a prompt."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  which gives input() its history and keys
    print("/help lists the commands, /quit ends")
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("\n> ")
    print()

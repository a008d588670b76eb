"""Answers drawn while somebody waits, to what they wrote: two, of different models or temperatures if it can be."""

import hashlib
import random
import threading
from dataclasses import asdict
from itertools import product
from typing import Any

from ..chat import Message, render_prompt
from ..recipe import RecipeError
from ..runtime.identity import checkpoint_name
from .answers import Refused
from .batch import Candidate, Settings

TRIES = 4  # pairs drawn before it is said that both say the same


class Live:
    """The models of a batch. Each is loaded when it is first asked; one answer is drawn at a time."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._sources = list(product(settings.models, settings.temperature))
        self._samplers: dict[str, Any] = {}
        self._one = threading.Lock()

    def draw(self, prompt: list[Message], key: str) -> list[dict[str, Any]]:
        """Two candidates that differ, as the log has them. key: names the random stream.

        Raises:
            Refused: the prompt leaves no room for an answer, or the models say the same or nothing again and again.
        """
        if not self._sources:
            raise RecipeError("models: found none, expected checkpoints to answer what annotators write")
        with self._one:
            for attempt in range(TRIES):
                rng = random.Random(f"{self._settings.seed}/{key}/{attempt}")
                sources = rng.sample(self._sources, 2) if len(self._sources) > 1 else self._sources * 2
                pair = [self._one_of(*source, prompt, f"{key}/{attempt}/{n}") for n, source in enumerate(sources)]
                said = [str(one.answer).strip() for one in pair]
                if all(said) and said[0] != said[1]:
                    return [asdict(one) for one in pair]
        raise Refused("The models gave the same answer again and again. Please write another message.")

    def _one_of(self, path: str, temperature: float, prompt: list[Message], key: str) -> Candidate:
        from ..recipe import EngineSettings  # seconds that most batches do without
        from ..sampling import SamplingParams

        settings = self._settings
        engine = EngineSettings(settings.engine, settings.dtype, settings.engine_options)
        if path not in self._samplers:
            self._samplers[path] = engine.sampler(path)
        sampler = self._samplers[path]
        tokens = len(render_prompt(sampler.tokenizer, prompt, sampler.tokens))
        room = int(min(settings.max_new_tokens, engine.context(path) - tokens))
        if room < 1:
            raise Refused("The conversation is too long for the models. End it, or write less.")
        params = SamplingParams(1, room, temperature, seed=settings.seed)
        stream = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        ((draft,),) = sampler([prompt], params, [stream])
        return Candidate(draft.answer, draft.finished, checkpoint_name(path), temperature)

"""The conversation itself: turns, commands, and what is said about each answer. Knows nothing of loading."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from ..chat import Message, TokenRole, as_message, render, render_prompt
from ..data import Demonstration
from ..rewards.models import RewardModels
from ..sampling import DialogSampler, Draft, SamplingParams
from .options import COMMANDS
from .screen import Screen

NUMBERS = {"temperature": float, "top_p": float, "max_new_tokens": int}


@dataclass
class Speaker:
    """A model that answers, and the dialog as it sees it. context: tokens of dialog and answer together."""

    name: str
    sampler: DialogSampler
    context: float
    messages: list[Message] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)  # of every answer, whether it ended by itself

    @property
    def finished(self) -> bool:
        """The last answer ended by itself."""
        return not self.ended or self.ended[-1]

    @property
    def dialog(self) -> tuple[list[Message], list[bool]]:
        """All there is of it, to go back to."""
        return list(self.messages), list(self.ended)

    @dialog.setter
    def dialog(self, to: tuple[list[Message], list[bool]]) -> None:
        self.messages, self.ended = list(to[0]), list(to[1])

    def take_back(self) -> None:
        """Forgets the last turn."""
        del self.messages[-2:], self.ended[-1:]

    def answer(self, params: SamplingParams, key: int, each: Callable[[str], None]) -> Draft:
        """Answers the dialog and takes the answer into it.

        Raises:
            ValueError: no room is left for an answer.
        """
        prompt = len(render_prompt(self.sampler.tokenizer, self.messages, self.sampler.tokens))
        room = int(min(params.max_new_tokens, self.context - prompt))
        if room < 1:
            raise ValueError(f"{self.name}: the dialog has {prompt} tokens of {self.context:g}; /undo or /reset")
        draft = self.sampler.stream(self.messages, replace(params, max_new_tokens=room), each, key)
        self.messages.append(as_message(draft.answer))
        self.ended.append(draft.finished)
        return draft

    def pieces(self) -> list[tuple[str, TokenRole]]:
        """The dialog as text by role, as it is encoded."""
        last_open = bool(self.messages) and self.messages[-1]["role"] == "assistant" and not self.finished
        tokenizer, tokens = self.sampler.tokenizer, self.sampler.tokens
        rendered = render(tokenizer, self.messages, continue_final_message=last_open, tokens=tokens)
        runs = groupby(zip(rendered.ids, rendered.roles, strict=True), key=lambda pair: pair[1])
        return [(tokenizer.decode([token for token, _ in run]), TokenRole(role)) for role, run in runs]


class Session:
    """One or two speakers, the settings of their answers, and the reward models that score them.

    Args:
        system: what every dialog begins with.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker],
        params: SamplingParams,
        screen: Screen,
        rewards: RewardModels | None = None,
        system: str | None = None,
    ):
        self.speakers, self.params, self.screen, self.rewards = list(speakers), params, screen, rewards
        self._roles, self._drawn = False, 0
        self._begin(system)

    def _begin(self, system: str | None) -> None:
        self.system = system or None
        for speaker in self.speakers:
            speaker.dialog = ([{"role": "system", "content": self.system}] if self.system else [], [])

    def line(self, text: str) -> bool:
        """Takes a line of a user's, a turn or a command; whether the conversation goes on."""
        if not text.strip():
            return True
        try:
            if text.startswith("/") and not text.startswith("//"):
                name, _, rest = text[1:].partition(" ")
                return self._command(name, rest.strip())
            self._turn(text.removeprefix("/") if text.startswith("//") else text)
        except (ValueError, OSError) as error:
            self.screen.say(str(error), "red")
        return True

    def _command(self, name: str, rest: str) -> bool:
        if name in ("quit", "exit"):
            return False
        command = getattr(self, f"_do_{name}", None)
        if name in NUMBERS:
            self._set(name, rest)
        elif command is None:
            raise ValueError(f"/{name}: found no such command; /help lists them, //{name} says it")
        else:
            command(rest)
        return True

    def _set(self, name: str, rest: str) -> None:
        try:
            self.params = replace(self.params, **{name: NUMBERS[name](rest)})
        except ValueError as error:
            raise ValueError(f"/{name}: {error}") from error
        self.screen.say(f"{name} {getattr(self.params, name):g}", "dim")

    def _do_help(self, _: str) -> None:
        self.screen.say(COMMANDS.partition("\n\n")[0])

    def _do_system(self, rest: str) -> None:
        self._begin(rest)
        self.screen.say(f"begun anew {'with a system message' if rest else 'without a system message'}", "dim")

    def _do_reset(self, _: str) -> None:
        self._begin(self.system)
        self.screen.say("begun anew", "dim")

    def _do_undo(self, _: str) -> None:
        self._last_turn()
        for speaker in self.speakers:
            speaker.take_back()
        self.screen.say("the last turn is taken back", "dim")

    def _do_regen(self, _: str) -> None:
        self._turn(self._last_turn(), again=True)

    def _do_roles(self, _: str) -> None:
        self._roles = not self._roles
        self.screen.say(f"roles are {'shown' if self._roles else 'not shown'}", "dim")
        if self._roles:
            self._show_roles()

    def _do_pick(self, rest: str) -> None:
        self._last_turn()
        if len(self.speakers) < 2 or rest not in ("a", "b"):
            raise ValueError(f"/pick: found {rest!r} of {len(self.speakers)} answers, expected a or b of two")
        picked = self.speakers["ab".index(rest)]
        for speaker in self.speakers:
            speaker.dialog = picked.dialog
        self.screen.say(f"both go on from the answer of {picked.name}", "dim")

    def _do_save(self, rest: str) -> None:
        self._last_turn()
        if not rest:
            raise ValueError("/save: found no file, expected the name of one")
        with open(os.path.expanduser(rest), "a", encoding="utf-8") as file:
            for speaker in self.speakers:
                record = Demonstration(speaker.messages, f"chat with {speaker.name}", speaker.finished)
                file.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
        self.screen.say(f"{rest}: {len(self.speakers)} demonstration{'s' * (len(self.speakers) > 1)} appended", "dim")

    def _last_turn(self) -> str:
        """What the user said last. Raises ValueError where nothing was."""
        messages = self.speakers[0].messages
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("found no answer yet, expected one")
        return messages[-2]["content"]

    def _turn(self, text: str, again: bool = False) -> None:
        before = [speaker.dialog for speaker in self.speakers]
        self._drawn += 1
        try:
            for number, speaker in enumerate(self.speakers):
                if again:
                    speaker.take_back()
                speaker.messages.append({"role": "user", "content": text})
                self._name(number)
                self._answer(speaker)
        except (KeyboardInterrupt, ValueError) as error:
            for speaker, dialog in zip(self.speakers, before, strict=True):
                speaker.dialog = dialog
            if not isinstance(error, KeyboardInterrupt):
                raise
            self.screen.say(f"\ninterrupted; {'the answer before stays' if again else 'the turn is taken back'}", "dim")
        else:
            if self._roles:
                self._show_roles()

    def _answer(self, speaker: Speaker) -> None:
        prompt = list(speaker.messages)
        draft = speaker.answer(self.params, self._drawn, self.screen.piece)
        self.screen.say("" if draft.finished else " [cut]")
        if self.rewards:
            scores = self.rewards([prompt], [draft.answer], [draft.finished], [{"objective": None}])
            said = "  ".join(f"{name} {score:+.3f}" for name, (score,) in scores.items())
            self.screen.say(f"[{said}]", "dim")

    def _show_roles(self) -> None:
        for number, speaker in enumerate(self.speakers):
            self._name(number)
            self.screen.tokens(speaker.pieces())

    def _name(self, number: int) -> None:
        if len(self.speakers) > 1:
            self.screen.say(f"{'ab'[number]}: {self.speakers[number].name}", "bold")

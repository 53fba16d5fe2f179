"""A chat that is under way: an episode whose turns arrive one by one, with a state of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, NoReturn, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder, name_id, turn_features, word_ids
from stm_rl.files import reading
from stm_rl.lm.prompt import line
from stm_rl.memory import EMPTY
from stm_rl.prepare import Prepared, encode
from stm_rl.transcript import Probe, Transcript, Turn
from stm_rl_envs.episodes import Episodes, StepResult
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.view import IntArray, View

FORMAT = "stm-rl/live-1"
ROW = np.zeros(1, np.int64)
"""A chat is the only row of its episodes."""


class LiveTurns:
    """The turns of a chat that are still there, by number: it stands where episodes have a prepared transcript.

    Attributes:
        turns: The turns themselves.
        first: Who spoke first; None before the first turn.
    """

    def __init__(self) -> None:
        self.turns: dict[int, Turn] = {}
        self.first: str | None = None
        self.lines: dict[int, str] = {}
        self.vectors: dict[int, NDArray[np.float32]] = {}
        self.features: dict[int, NDArray[np.float32]] = {}
        self.words: dict[int, NDArray[np.int64]] = {}
        self.speakers: dict[int, int] = {}
        self.names: dict[int, int] = {}
        self.writable: dict[int, bool] = {}
        self.probes: dict[int, Probe] = {}
        """None: what depends on what is not known of a chat."""

    def __len__(self) -> int:
        return 1 + max(self.turns, default=-1)

    def add(self, number: int, turn: Turn, vector: NDArray[np.float32], speaker: int) -> None:
        """Keep a turn, encoded as ``vector``, whose speaker has a number; see :meth:`number_of`."""
        self.turns[number], self.lines[number], self.vectors[number] = turn, line(turn), vector
        self.features[number], self.words[number] = turn_features(turn), word_ids([turn.text])[0]
        self.speakers[number], self.names[number] = speaker, name_id(turn.speaker)
        self.writable[number] = turn.writable

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop all turns but those with the given numbers."""
        for number in self.turns.keys() - set(numbers):
            for values in vars(self).values():
                if isinstance(values, dict):
                    values.pop(number, None)

    def number_of(self, speaker: str) -> int:
        """Return the number of a speaker: 0 for the first of the chat, else that of a turn still there or a free one.

        Observations tell no more than which numbers are equal or 0, so the number of a speaker of whom no turn is left
        can go to another, and a chat of any number of speakers needs few.
        """
        if self.first in (None, speaker):
            return 0
        known = {turn.speaker: self.speakers[number] for number, turn in self.turns.items()}
        taken = set(known.values())
        return known[speaker] if speaker in known else next(one for one in count(1) if one not in taken)


class LiveView(View):
    """A view of an episode whose next turn has yet to arrive when a step is over."""

    def advance(self, rows: IntArray, items: Sequence[Prepared], turns: Sequence[int], written: IntArray) -> None:
        """Wait for :meth:`arrive`."""

    def arrive(self, item: Prepared, turn: int, written: int) -> None:
        """Show the turn that has arrived; the one before was written to the slot ``written``, 0 for none."""
        super().advance(ROW, [item], [turn], np.array([written]))


class _Unknown(Sequence[Transcript]):
    """The transcript of a chat, which nobody knows before its end."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> NoReturn:
        raise StmError("a chat that is under way has no transcript yet; give its turns one by one")


class LiveEpisode(Episodes):
    """One episode that is played while its transcript is being made: nothing of the future is known.

    :meth:`arrive` brings a turn; :meth:`act` plays the step, and the next turn may come. Observations, masks, memory
    and reads are to the last bit those of :class:`~stm_rl_envs.episodes.Episodes` on the same turns. What is kept is
    bounded: the slots, the turns in them, and the last few turns.

    Attributes:
        item: The turns that are still there.
    """

    def __init__(self, settings: MemorySettings | None = None, encoder: TextEncoder | str | None = None) -> None:
        """Begin a chat.

        Args:
            settings: Slots, window and reads; the rest is of no account here.
            encoder: Encodes turns: an encoder, its name, or None for the default one.
        """
        given = settings or MemorySettings()
        own = MemorySettings(slots=given.slots, window=given.window, reads=given.reads)
        super().__init__(_Unknown(), None, 1, own, {"write_cost": 1.0}, encoder)  # nobody scores a chat
        self.view: LiveView = LiveView(self.memory, self.encoder.dimension, own.window)
        self.item = LiveTurns()
        self.current = [cast("Prepared", self.item)]  # all of it that a step looks at
        self.last_step[:] = np.iinfo(np.int64).max

    @property
    def turns(self) -> int:
        """How many turns have been played."""
        return int(self.step_index[0])

    @property
    def single_observation_space(self) -> spaces.Dict:
        """The space of an observation."""
        return self.observation_space()

    @property
    def episodes(self) -> LiveEpisode:
        """The chat itself: agents that start in an environment look at its episodes."""
        return self

    def arrive(self, turn: Turn) -> None:
        """Show the next turn.

        Raises:
            StmError: The turn carries media, or is no valid text, or the turn before has not been acted on.
        """
        number = self.turns
        if number in self.item.turns:
            raise StmError(
                f"turn {number} has arrived but was not acted on; act first, or restore the chat from its last state"
            )
        vector = self._vector(turn)
        self.item.add(number, turn, vector, self.item.number_of(turn.speaker))
        if number == 0:
            self.item.first = turn.speaker
            self.view.start(ROW, self.current)
        else:
            held, before = self.held_turns(), number - 1
            self.view.arrive(self.current[0], number, held.index(before) + 1 if before in held else 0)

    def act(self, action: NDArray[np.int64]) -> StepResult:
        """Play the step of the turn that has arrived.

        Args:
            action: One write and ``R`` reads, shape ``(1 + R,)``.
        """
        if self.turns not in self.item.turns:
            raise StmError(f"turn {self.turns} has not arrived yet; there is nothing to act on")
        return self.step(ROW, action[None])

    def begin(self, rows: NDArray[np.int64], actions: NDArray[np.int64]) -> Callable[[], StepResult]:
        """Play a step, and drop the turns that are in no slot and out of the window."""
        finish = super().begin(rows, actions)
        self._drop()
        return finish

    def forget(self, row: int, slot: int) -> None:
        """Empty a slot, 1 to K, and drop the turn it held."""
        super().forget(row, slot)
        self._drop()

    def held_turns(self) -> list[int]:
        """Return the turn that each of the K slots holds, or ``EMPTY``."""
        turns: list[int] = self.memory.turn[0].tolist()
        return turns

    def text_of(self, turn: int) -> str:
        """Return what a slot keeps of a turn: its text, or the note in place of it."""
        return self.notes[0].get(turn, self.item.turns[turn].text)

    def line_of(self, turn: int) -> str:
        """Return the line that a turn puts in front of a model when it is read."""
        return self.notes[0].get(turn, self.item.lines[turn])

    def window(self) -> list[Turn]:
        """Return the last turns, oldest first, as many as a model sees without memory."""
        first = max(0, len(self.item) - self.settings.window)
        return [self.item.turns[turn] for turn in range(first, len(self.item))]

    def _drop(self) -> None:
        held = {turn for turn in self.held_turns() if turn != EMPTY}
        seen = range(self.turns - max(2, self.settings.window), self.turns + 1)  # observations tell of the turn before
        self.item.keep(held | set(seen))
        self.notes[0] = {turn: text for turn, text in self.notes[0].items() if turn in held or turn >= self.turns}

    def _vector(self, turn: Turn) -> NDArray[np.float32]:
        if turn.media:
            raise StmError(f"the turn {str(turn)[:60]!r} carries {turn.media[0].kind}; a chat keeps text only")
        try:
            str(turn).encode()
        except UnicodeEncodeError as error:
            raise StmError(f"a turn is no valid Unicode text ({error.reason}); remove lone surrogates") from error
        # One at a time: models round differently in batches, and a chat must go on the same after it was restored.
        vector: NDArray[np.float32] = encode(self.encoder, [line(turn)])[0]
        return vector

    # State.

    def get_state(self) -> dict[str, Any]:
        """Return everything needed to go on, as JSON values; its size does not grow with the number of turns.

        Raises:
            StmError: A turn has arrived that has not been acted on.
        """
        if self.turns in self.item.turns:
            raise StmError(f"turn {self.turns} has not been acted on; act before the state is taken")
        return {
            "format": FORMAT,
            **self._sizes(),
            "turns": self.turns,
            "first_speaker": self.item.first,
            "held": [
                {
                    "turn": number,
                    "speaker": turn.speaker,
                    "text": turn.text,
                    "writable": turn.writable,
                    "speaker_number": self.item.speakers[number],
                }
                for number, turn in sorted(self.item.turns.items())
            ],
            "notes": sorted(self.notes[0].items()),
            "memory": {name: values[0].tolist() for name, values in self.memory.get_state().items()},
            "overlap_since": self.view.overlap_since[0].tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` returned, before the first turn.

        Raises:
            StmError: The state is damaged, or of a memory of another size.
        """
        with reading("the state of a chat", "begin a new one"):
            if (found := state.get("format")) != FORMAT:
                raise StmError(f"the state of a chat has format {found!r}; expected {FORMAT!r}; begin a new one")
            if (sizes := {name: state[name] for name in self._sizes()}) != self._sizes():
                raise StmError(
                    f"the state is of a chat with {sizes} but the memory has {self._sizes()}; "
                    "give it the same slots, window and reads, or begin a new one"
                )
            self.item.first = state["first_speaker"]
            for held in state["held"]:
                turn = Turn(held["text"], held["speaker"], {} if held["writable"] else {"writable": False})
                self.item.add(held["turn"], turn, self._vector(turn), held["speaker_number"])
            self.notes[0] = {int(turn): str(text) for turn, text in state["notes"]}
            names = self.memory.get_state()
            self.memory.set_state({name: np.array([state["memory"][name]], np.int64) for name in names})
            self.step_index[0] = state["turns"]
            if self.turns:
                since = np.array([state["overlap_since"]], np.float32)
                self.view.restore(self.current, self.step_index - 1, since)

    def _sizes(self) -> dict[str, int]:
        return {"slots": self.settings.slots, "window": self.settings.window, "reads": self.settings.reads}

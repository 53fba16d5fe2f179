"""One chat's bounded memory, kept by an agent: turns arrive one by one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.files import reading
from stm_rl.memory import EMPTY
from stm_rl.transcript import Turn
from stm_rl_agents.base import Agent
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.serving.live_agent import check_live, encoder_of, load_serving_agent
from stm_rl_envs.live import LiveEpisode
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

__all__ = ["Context", "LiveSession", "Operations", "Read", "SlotContent", "load_serving_agent"]


@dataclass(frozen=True, slots=True)
class Read:
    """A slot that was put in front of the model.

    Attributes:
        slot: Its number, 1 to K.
        turn: The turn it holds.
        text: What it holds, without the speaker.
    """

    slot: int
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class SlotContent:
    """What a slot holds.

    Attributes:
        slot: Its number, 1 to K.
        turn: The turn it holds.
        speaker: Who said it.
        text: Its text, or the note that the agent keeps in place of it.
        written: The turn at which it was written.
        reads: How often it has been read since.
        last_read: The turn at which it was last read or, if it was not, written.
    """

    slot: int
    turn: int
    speaker: str
    text: str
    written: int
    reads: int
    last_read: int

    def as_json(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Operations:
    """What an agent did with the memory at one turn.

    Attributes:
        turn: Number of the turn, from 0.
        speaker: Who said it.
        text: What was said.
        write: The slot it was written to, 1 to K; 0 for none.
        superseded: What that slot held before; None if it was free or nothing was written.
        reads: What was put in front of the model, oldest turn first.
        forgotten: Slots that the agent emptied before it wrote.
        probabilities: How likely each choice was to a policy: ``write``, K + 1 numbers, none first; and ``read``, such
            a list for each of R reads. None for agents that have no probabilities.
    """

    turn: int
    speaker: str
    text: str
    write: int
    superseded: str | None
    reads: list[Read]
    forgotten: list[int] = field(default_factory=list)
    probabilities: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the operations as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Context:
    """What goes in front of whoever speaks next.

    :class:`stm_rl.contexts.Contexts` makes a text of it as in evaluations.

    Attributes:
        reads: Lines read from memory, oldest first.
        window: The last turns, oldest first.
        speaker: Who speaks next; may be empty.
    """

    reads: list[str]
    window: list[Turn]
    speaker: str


class LiveSession:
    """One chat's bounded memory, kept by an agent.

    Every turn that arrives is a step of an episode: the agent sees it, writes it or leaves it out, and reads; see
    :class:`~stm_rl_envs.live.LiveEpisode`. The agent takes its likeliest actions, as in evaluations.

    Sessions may share an agent and an encoder, but only one of them may be at work at a time. An agent that acts at
    random is copied, so that each session draws for itself. If an agent fails, the session is half-way through a turn;
    :meth:`restore` it from its last state.
    """

    def __init__(self, agent: Agent, settings: MemorySettings, encoder: TextEncoder | None = None) -> None:
        """Begin a chat.

        Args:
            agent: Keeps the memory.
            settings: Slots, window and reads.
            encoder: Encodes turns; by default the one that the agent was trained with.

        Raises:
            StmError: The agent looks into the future, or does not fit the settings or the encoder.
        """
        check_live(agent)
        if agent.draws and not hasattr(agent, "rng"):
            raise StmError(f"{agent.name} acts at random but has no generator `rng` that a session could keep")
        self.agent = deepcopy(agent) if agent.draws else agent
        self._live = LiveEpisode(settings, encoder or encoder_of(agent))
        self._env = cast("MemoryVectorEnv", self._live)  # all of it that agents look at when they start
        if isinstance(agent, PolicyAgent):
            agent.check_fits(self._env)
        self._read: list[int] = []

    @property
    def turns(self) -> int:
        """How many turns there have been."""
        return self._live.turns

    def add(self, turn: Turn, *, read: bool = True) -> Operations:
        """Let the agent act on the turn that has just arrived.

        Args:
            turn: The turn.
            read: Let it read, too; False for turns after which no model is asked.

        Returns:
            What it did.

        Raises:
            StmError: The turn cannot be kept.
        """
        live = self._live
        live.arrive(turn)
        before = live.held_turns()
        action, probabilities = self._decide()
        if not read:
            action[1:] = 0
        after = live.held_turns()
        old = [None if held == EMPTY else live.text_of(held) for held in after]
        step = live.act(action)
        write = int(step.writes[0])
        self._read = step.reads[0]
        return Operations(
            turn=self.turns - 1,
            speaker=turn.speaker,
            text=turn.text,
            write=write,
            superseded=old[write - 1] if write else None,
            reads=[Read(live.held_turns().index(one) + 1, one, live.text_of(one)) for one in self._read],
            forgotten=[slot for slot, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b],
            probabilities=probabilities,
        )

    def _decide(self) -> tuple[NDArray[np.int64], dict[str, Any] | None]:
        """Return the agent's action and, if it is a policy, its probabilities."""
        observation, masks = self._live.observe(), self._live.action_masks()
        self.agent.start(self._env)  # it may have been in another session before
        if not isinstance(self.agent, PolicyAgent):
            return np.array(self.agent.act(observation, masks)[0]), None
        actions, probabilities = self.agent.act_with_probabilities(observation, masks)
        write, *reads = np.round(probabilities[0].astype(np.float64), 6).tolist()
        return actions[0], {"write": write, "read": reads}

    def context(self, speaker: str, *, reads: bool = True) -> Context:
        """Return what goes in front of whoever speaks next.

        Args:
            speaker: Who that is; may be empty.
            reads: Put what was read at the last turn in front of the window.
        """
        held = self._live.held_turns()
        lines = [self._live.line_of(turn) for turn in self._read if turn in held] if reads else []
        return Context(lines, self._live.window(), speaker)

    def slots(self) -> list[SlotContent | None]:
        """Return what each slot holds, K entries; None: it is free."""
        live, memory = self._live, self._live.memory
        return [
            None
            if turn == EMPTY
            else SlotContent(
                number + 1,
                turn,
                live.item.turns[turn].speaker,
                live.text_of(turn),
                int(memory.written[0, number]),
                int(memory.reads[0, number]),
                int(memory.last_read[0, number]),
            )
            for number, turn in enumerate(live.held_turns())
        ]

    def forget(self, slot: int) -> None:
        """Empty a slot, 1 to K.

        Raises:
            StmError: There is no such slot.
        """
        self._live.forget(0, slot)

    def clear(self) -> None:
        """Empty every slot; the window stays."""
        for slot in range(1, self._live.settings.slots + 1):
            self.forget(slot)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly the same, as JSON values of bounded size."""
        rng: np.random.Generator | None = getattr(self.agent, "rng", None) if self.agent.draws else None
        random = None if rng is None else rng.bit_generator.state
        return {**self._live.get_state(), "read": list(self._read), "random": random}

    @classmethod
    def restore(
        cls, agent: Agent, settings: MemorySettings, state: dict[str, Any], encoder: TextEncoder | None = None
    ) -> LiveSession:
        """Return a session that goes on from a state.

        Args:
            agent: As for a new session.
            settings: Those of the session that gave the state.
            state: What :meth:`state` returned.
            encoder: As for a new session.

        Raises:
            StmError: The state is damaged, or of a memory of another size.
        """
        session = cls(agent, settings, encoder)
        session._live.set_state(state)
        with reading("the state of a chat", "begin a new one"):
            session._read = [int(turn) for turn in state["read"]]
            if (rng := getattr(session.agent, "rng", None)) is not None and state["random"] is not None:
                rng.bit_generator.state = state["random"]
        return session

"""Demonstrations for a language model: states of the memory, and the tool calls an expert makes in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Agent, reads_of
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.lessons import throw_off
from stm_rl_agents.language.chat import prompt_of
from stm_rl_agents.language.states import state_of
from stm_rl_agents.language.tools import Decision, Message, decision_of
from stm_rl_envs.vector import MemoryVectorEnv

FLOOR = 0.02
"""Stake, in nats, of a part of a decision on which nothing hangs: what a read costs."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One decision of an expert.

    Attributes:
        prompt: What the model is shown.
        decision: What the expert does.
        stake: Nats that hang on it: what a choice at random would lose.
        state: The state it was made in, see :mod:`stm_rl_agents.language.states`.
    """

    prompt: list[Message]
    decision: Decision
    stake: float
    state: str

    def row(self, tools: list[Any] | None) -> dict[str, Any]:
        """Return the demonstration as a row for TRL's trainers."""
        row: dict[str, Any] = {"messages": [*self.prompt, self.decision.message()]}
        return row | {"tools": tools} if tools else row


def demonstrate(
    actor: Agent,
    expert: HindsightExpert,
    env: MemoryVectorEnv,
    indices: Sequence[int],
    *,
    short: bool,
    quote: bool = False,
    parts: bool = False,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    on_episodes: Callable[[int], None] = lambda count: None,
) -> list[Demonstration]:
    """Play transcripts once each, and ask the expert what it would do in every state that is met.

    Args:
        actor: Who plays: the expert itself, or a learner that gets into states of its own (DAgger).
        expert: Who is asked.
        env: An environment that does not reset itself; it needs no language model.
        indices: Indices of the transcripts.
        short: Leave the instruction out of prompts; see :func:`~stm_rl_agents.language.chat.is_short`.
        quote: Spell out the text of what is written, instead of saying that it is the turn.
        parts: Show what to write and what to read apart, each with its own stake; the other part of a decision is then
            the actor's, from which nothing new is learned.
        noise: Probability with which a random write takes the place of the actor's, so that memories also hold what is
            of no use (DART; Laskey et al., 2017).
        rng: Draws the random writes.
        on_episodes: Called with the number of episodes just finished.
    """
    rng = rng or np.random.default_rng(0)
    expert.start(env)
    if actor is not expert:
        actor.start(env)
    found: list[Demonstration] = []
    episodes = env.episodes
    for first in range(0, len(indices), env.num_envs):
        chunk = list(indices[first : first + env.num_envs])
        active = np.arange(env.num_envs) < len(chunk)
        observation, _ = env.reset(options={"reset_mask": active, "transcripts": chunk})
        while active.any():
            masks = env.action_masks()
            advice = expert.advise()
            told, _ = expert.decide(advice, masks, reads_of(observation, masks))
            reads = np.where(advice.read >= expert.level, advice.read, 0)  # noise is no stake
            stakes = np.stack([lost_at_random(advice.write), lost_at_random(reads)]) + FLOOR
            rows = np.flatnonzero(active).tolist()
            seen = [
                (prompt_of(episodes, row, short), state_of(episodes, row)) for row in rows
            ]  # before anything is done
            actions = told.copy() if actor is expert else actor.act(observation, masks, deterministic=False)
            for row, (prompt, state) in zip(rows, seen, strict=True):
                decision, own = decision_of(told[row]), decision_of(actions[row])
                if quote and decision.write:
                    decision = replace(decision, text=episodes.current[row].lines[int(episodes.step_index[row])])
                shown = partial(Demonstration, prompt, state=state)
                write, read = stakes[:, row].tolist()
                if parts:
                    found.append(shown(decision=replace(decision, reads=own.reads), stake=write))
                    found.append(shown(decision=replace(own, reads=decision.reads), stake=read))
                else:
                    found.append(shown(decision=decision, stake=write + read))
            throw_off(actions, masks, observation["slots"].shape[1], noise, rng)
            observation, _, terminated, truncated, _ = env.step(actions)
            active &= ~(terminated | truncated)
        on_episodes(len(chunk))
    return found


def lost_at_random(worth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a choice at random loses against the best, shape ``(n,)``.

    That a turn is best left out has a stake, too, if it could supersede something of worth.

    Args:
        worth: What each of ``c`` choices is worth, shape ``(n, c)``.
    """
    return np.asarray(worth.max(1) - worth.mean(1))


def resampled(demonstrations: Sequence[Demonstration], count: int, rng: np.random.Generator) -> list[Demonstration]:
    """Return ``count`` demonstrations, each as often as its stake says.

    A row of a data set cannot have a weight; being drawn in proportion to what hangs on a decision comes to the same.
    """
    stakes = np.array([one.stake for one in demonstrations])
    drawn = rng.choice(len(demonstrations), count, p=stakes / stakes.sum())
    return [demonstrations[index] for index in drawn.tolist()]

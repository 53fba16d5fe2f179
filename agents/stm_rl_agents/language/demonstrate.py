"""Demonstrations for a language model: states of the memory, and the tool calls an expert makes in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Agent, reads_of
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.lessons import throw_off
from stm_rl_agents.language.chat import prompt_of
from stm_rl_agents.language.states import state_of
from stm_rl_agents.language.tools import Decision, Message, decision_of
from stm_rl_envs.vector import MemoryVectorEnv

WHOLE, WRITES, READS = "", "write", "read"
"""What of a decision is to be learned."""
QUESTION = " ?"
"""What follows a prompt that asks what the slots and the turn are worth."""
FLOOR = 0.02
"""Stake, in nats, of a part of a decision on which nothing hangs: what a read costs."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One decision of an expert, or the part of it that is to be learned.

    Attributes:
        prompt: What the model is shown.
        decision: What the expert does.
        stake: Nats that hang on it: what a choice at random would lose.
        state: The state it was made in, see :mod:`stm_rl_agents.language.states`; empty for a part.
        part: ``write``: learn what is done about that only; ``read``: which slot is read next; empty: learn all.
        given: Of a read: how many of the decision's reads have been said already, right or wrong.
        closed: Of a read: whether there can be no other after it.
        answer: What is said instead of a decision, where the prompt asks for something else.
    """

    prompt: list[Message]
    decision: Decision
    stake: float
    state: str
    part: str = WHOLE
    given: int = 0
    closed: bool = False
    answer: str = ""

    @property
    def messages(self) -> list[Message]:
        """The conversation: what the model is shown, and what the expert says."""
        said: Message = {"role": "assistant", "content": self.answer} if self.answer else self.decision.message()
        return [*self.prompt, said]


def demonstrate(
    actor: Agent,
    expert: HindsightExpert,
    env: MemoryVectorEnv,
    indices: Sequence[int],
    *,
    short: bool,
    quote: bool = False,
    parts: bool = False,
    worth_stake: float = 0.0,
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
        parts: Give what to write and each read apart, with its own stake: much may hang on what is read where little
            does on what is written.
        worth_stake: With ``parts``, ask in every state what each slot is worth, too, and give the answer this stake,
            in nats; 0: never.
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
            most = reads_of(observation, masks)
            told, _ = expert.decide(advice, masks, most)
            reads = np.where(advice.read >= expert.level, advice.read, 0)  # noise is no stake
            stakes = lost_at_random(advice.write) + lost_at_random(reads) + 2 * FLOOR
            rows = np.flatnonzero(active).tolist()
            # Before anything is done. What is learned of parts needs no state, and to tell it takes long.
            seen = [(prompt_of(episodes, row, short), "" if parts else state_of(episodes, row)) for row in rows]
            actions = told.copy() if actor is expert else actor.act(observation, masks, deterministic=False)
            for row, (prompt, state) in zip(rows, seen, strict=True):
                decision = decision_of(told[row])
                if quote and decision.write:
                    decision = replace(decision, text=episodes.current[row].lines[int(episodes.step_index[row])])
                whole = Demonstration(prompt, decision, float(stakes[row]), state)
                if parts:
                    own = actions[row, 1:].tolist()
                    if actor is expert and rng.random() < 0.5:
                        own = [int(rng.integers(1, reads.shape[1])), *own]  # what it would do after a mistake
                    found += _parts(whole, float(lost_at_random(advice.write[row])) + FLOOR, reads[row], own, most)
                    if worth_stake:
                        found.append(_worth(prompt, advice.kept[row], worth_stake))
                else:
                    found.append(whole)
            throw_off(actions, masks, observation["slots"].shape[1], noise, rng)
            observation, _, terminated, truncated, _ = env.step(actions)
            active &= ~(terminated | truncated)
        on_episodes(len(chunk))
    return found


def _parts(
    whole: Demonstration, write: float, worth: NDArray[np.float32], own: Sequence[int], reads: int
) -> Iterator[Demonstration]:
    """Yield what a decision says of the write, and then of each read, after those that the learner itself has said.

    A read that was no use is so followed by another one, if there is one of use: to read two slots costs little where
    only one of them is right, and nobody knows which.

    Args:
        whole: The decision.
        write: What hangs on the write, nats.
        worth: What reading each slot gains, nats, shape ``(K + 1,)``; 0 first.
        own: The slots that the learner reads, 0 for none.
        reads: Most slots that are read.
    """
    decision = whole.decision
    left = np.where(np.arange(len(worth)) == decision.write, 0, worth)  # what it superseded cannot be read
    yield replace(whole, decision=replace(decision, reads=()), stake=write, part=WRITES)
    given: tuple[int, ...] = ()
    for slot in (*list(dict.fromkeys(filter(None, own)))[: reads - 1], 0):
        more = (int(left.argmax()),) if left.max() > 0 else ()
        stake = float(lost_at_random(left)) + FLOOR
        said = replace(decision, reads=given + more)
        closed = len(said.reads) == reads
        yield replace(whole, decision=said, stake=stake, part=READS, given=len(given), closed=closed)
        given = (*given, slot)
        left = np.where(np.arange(len(worth)) == slot, 0, left)


def _worth(prompt: list[Message], kept: NDArray[np.float32], stake: float) -> Demonstration:
    """Return the question what each slot and the current turn are worth, with the answer: whole nats, at most 9 each.

    Nobody asks it when it matters. To learn the answers teaches, slot by slot and in every state, what a decision is
    made of, of which it shows only the outcome (an auxiliary task, as of Jaderberg et al., UNREAL, 2017).
    """
    asked: Message = {**prompt[-1], "content": f"{prompt[-1]['content']}{QUESTION}"}
    digits = np.clip(np.rint(kept), 0, 9).astype(int).tolist()
    return Demonstration([*prompt[:-1], asked], Decision(), stake, "", answer=" ".join(map(str, digits)))


def lost_at_random(worth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a choice at random loses against the best, shape ``(...)``.

    That a turn is best left out has a stake, too, if it could supersede something of worth.

    Args:
        worth: What each of ``c`` choices is worth, shape ``(..., c)``.
    """
    return np.asarray(worth.max(-1) - worth.mean(-1))


def resampled(demonstrations: Sequence[Demonstration], count: int, rng: np.random.Generator) -> list[Demonstration]:
    """Return ``count`` demonstrations, each as often as its stake says.

    A row of a data set cannot have a weight; being drawn in proportion to what hangs on a decision comes to the same.
    """
    stakes = np.array([one.stake for one in demonstrations])
    drawn = rng.choice(len(demonstrations), count, p=stakes / stakes.sum())
    return [demonstrations[index] for index in drawn.tolist()]

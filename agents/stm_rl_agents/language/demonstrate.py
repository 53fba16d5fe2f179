"""Demonstrations for a language model: states of the memory, and the tool calls an expert makes in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Agent, reads_of
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.lessons import throw_off
from stm_rl_agents.language.chat import prompt_of, reordered
from stm_rl_agents.language.tools import Decision, Message, decision_of
from stm_rl_envs.vector import MemoryVectorEnv

WRITES, READS, WORTH = PARTS = ("write", "read", "worth")
"""What of a demonstration can be learned apart: what is written, what is read next, and what slots are worth."""
QUESTION = "?"
"""What is asked after a decision: what the slots and the turn are worth."""
FLOOR = {WRITES: 0.1, READS: 0.02}
"""Stake, in nats, of a part of a decision on which nothing hangs; of a read what it costs."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One decision of an expert, and what of it is to be learned.

    Attributes:
        prompt: What the model is shown.
        decision: What the expert does.
        stake: Nats that hang on the decision.
        state: The state it was made in, see :mod:`stm_rl_agents.language.states`; empty where nobody goes on from it.
        stakes: Nats that hang on the write and on the next read; empty: the decision is learned as a whole.
        learned: Which of :data:`PARTS` are learned; see :func:`resampled`.
        given: How many of the decision's reads have been said already, right or wrong, when the next is learned.
        closed: Whether there can be no read after that.
        worth: What each slot and the current turn are worth, digits; empty: nobody knows.
    """

    prompt: list[Message]
    decision: Decision
    stake: float
    state: str = ""
    stakes: tuple[float, ...] = ()
    learned: tuple[str, ...] = ()
    given: int = 0
    closed: bool = False
    worth: str = ""

    @property
    def messages(self) -> list[Message]:
        """The conversation: what the model is shown, what the expert says, and what it answers if that is learned."""
        asked: list[Message] = []
        if WORTH in self.learned:
            asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": self.worth}]
        return [*self.prompt, self.decision.message(), *asked]


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
        parts: Give what to write and each read stakes of their own: much may hang on what is read where little does on
            what is written.
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
    for _, observation in env.batches(indices, on_episodes):
        while not env.resting.all():
            masks = env.action_masks()
            advice = expert.advise()
            most = reads_of(observation, masks)
            told, _ = expert.decide(advice, masks, most)
            reads = np.where(advice.read >= expert.level, advice.read, 0)  # noise is no stake
            rows = np.flatnonzero(~env.resting).tolist()
            seen = [prompt_of(episodes, row, short) for row in rows]  # before anything is done
            actions = told.copy() if actor is expert else actor.act(observation, masks, deterministic=False)
            for row, prompt in zip(rows, seen, strict=True):
                decision = decision_of(told[row])
                if quote and decision.write:
                    decision = replace(decision, text=episodes.current[row].lines[int(episodes.step_index[row])])
                write = whether(advice.write[row]) + FLOOR[WRITES]
                stake = write + lost_at_random(reads[row]) + FLOOR[READS]
                whole = Demonstration(prompt, decision, stake)
                if parts:
                    own = actions[row, 1:].tolist()
                    if actor is expert and rng.random() < 0.5:
                        own = [int(rng.integers(1, reads.shape[1])), *own]  # what it would do after a mistake
                    worth = replace(whole, worth=digits(advice.kept[row]))
                    found += _after_own_reads(worth, write, reads[row], own, most)
                else:
                    found.append(whole)
            throw_off(actions, masks, observation["slots"].shape[1], noise, rng)
            observation, *_ = env.step(actions)
    return found


def _after_own_reads(
    whole: Demonstration, write: float, worth: NDArray[np.float32], own: Sequence[int], reads: int
) -> list[Demonstration]:
    """Return a decision with the next read after none, after one and so on of those that the learner itself has said.

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
    before = list(dict.fromkeys(filter(None, own)))[: reads - 1]
    found: list[Demonstration] = []
    for given, slot in enumerate((*before, 0)):
        more = (int(left.argmax()),) if left.max() > 0 else ()
        said = replace(decision, reads=(*before[:given], *more))
        parts = (write / (len(before) + 1), lost_at_random(left) + FLOOR[READS])  # the write stands in all of them
        found.append(replace(whole, decision=said, stakes=parts, given=given, closed=len(said.reads) == reads))
        left = np.where(np.arange(len(worth)) == slot, 0, left)
    return found


def digits(kept: NDArray[np.float32]) -> str:
    """Return what slots and the current turn are worth as whole nats, at most 9 each.

    Nobody asks for it when it matters. To learn the answers teaches, slot by slot and in every state, what a decision
    is made of, of which it shows only the outcome (an auxiliary task, as of Jaderberg et al., UNREAL, 2017).
    """
    return " ".join(map(str, np.clip(np.rint(kept), 0, 9).astype(int).tolist()))


def whether(write: NDArray[np.float32]) -> float:
    """Return what hangs on whether a turn is written: what the best slot for it gains, or loses.

    A choice at random would be a poor measure: over slots that are all of worth most choices lose much, and nobody
    makes them.

    Args:
        write: What putting the turn into each slot gains, nats, shape ``(K + 1,)``; 0 first.
    """
    return float(abs(write[1:].max()))


def lost_at_random(worth: NDArray[np.float32]) -> float:
    """Return what a choice at random loses against the best.

    Args:
        worth: What each choice is worth, nats, shape ``(c,)``.
    """
    return float(worth.max() - worth.mean())


def resampled(
    demonstrations: Sequence[Demonstration], count: int, rng: np.random.Generator, worth_share: float = 0.0
) -> list[Demonstration]:
    """Return ``count`` demonstrations, each as often as its stake says, or the greater of the stakes of its parts.

    A row of a data set cannot have a weight; being drawn in proportion to what hangs on a decision comes to the same.
    Of one that is drawn, each part is learned with a probability of its stake over the greater: so each part is
    learned in proportion to its own stake, and one pass over a prompt serves both of them. Slots come in an order of
    its own each time.

    Args:
        demonstrations: What is drawn from.
        count: How many are drawn.
        rng: Draws them.
        worth_share: Probability with which it is also learned what slots are worth, where parts are learned.
    """
    stakes = np.array([max(one.stakes, default=one.stake) for one in demonstrations])
    drawn = rng.choice(len(demonstrations), count, p=stakes / stakes.sum())
    found: list[Demonstration] = []
    for index, chances in zip(drawn.tolist(), rng.random((count, len(PARTS))).tolist(), strict=True):
        one = demonstrations[index]
        shares = [*(stake / stakes[index] for stake in one.stakes), worth_share] if one.stakes else []
        learned = tuple(part for part, share, at in zip(PARTS, shares, chances, strict=False) if at < share)
        found.append(shuffled(replace(one, learned=learned), rng) if one.stakes else one)
    return found


def shuffled(one: Demonstration, rng: np.random.Generator) -> Demonstration:
    """Return a demonstration with its slots in another order; of free slots it is still the first that is written.

    Which slot is which means nothing. Nothing else tells a language model so: without, it learned by heart (held-out
    loss of writes 0.65 against 0.61).
    """
    worth = one.worth.split()
    order = [int(number) for number in rng.permutation(len(worth) - 1) + 1]
    text = reordered(one.prompt[-1]["content"], order)
    place = {number: at for at, number in enumerate(order, 1)}
    lines = text.split("\n")[: len(order)]
    write = place.get(one.decision.write, 0)
    if write and lines[write - 1] == str(write):
        write = next(at for at, line in enumerate(lines, 1) if line == str(at))
    decision = replace(one.decision, write=write, reads=tuple(place[number] for number in one.decision.reads))
    digits = " ".join([*(worth[number - 1] for number in order), worth[-1]])
    return replace(one, prompt=[*one.prompt[:-1], {**one.prompt[-1], "content": text}], decision=decision, worth=digits)

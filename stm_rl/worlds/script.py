"""What all procedural worlds share: their settings, and the course of events.

A transcript is made of *beats*. In each beat one thing happens: a fact that is due is asked about, or
something new is stated, changed, called off, gossiped or chatted. Worlds differ in how they *tell*
each of these, in one turn or several: they subclass :class:`Script` and fill in the ``tell_*`` methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from stm_rl.errors import StmError
from stm_rl.transcript import Probe, Transcript, Turn
from stm_rl.worlds.lexicon import POOLS, Lexicon
from stm_rl.worlds.relation import Chain, Fact, Phrasings, Relation, StatedFact

SPLITS = ("train", "heldout")
ASKED_WITH_PROBABILITY = {"fact": 0.9, "message": 0.9, "hedge": 0.15}
HEDGES, MESSAGES, UPDATES, CANCELS = 0.2, 0.2, 0.1, 0.03
"""Shares: of new facts, those that are hedges and messages; of beats, those that are updates and cancellations."""


@dataclass(frozen=True, slots=True)
class ScriptWorld(ABC):
    """Settings of a procedural world.

    Attributes:
        turns: Turns in a transcript; at least 8.
        min_gap: Least number of beats from a fact to the need for it.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things no training transcript contains.
        templates: ``train``, or ``heldout`` for phrasings no training transcript contains.
        distractor_rate: Share of beats without a due fact that are gossip or the past.
        chat_rate: Share of such beats that are small talk or filler.
        lexicon: Where names and things come from.
    """

    turns: int = 40
    min_gap: int = 4
    max_gap: int = 12
    entities: str = "train"
    templates: str = "train"
    distractor_rate: float = 0.3
    chat_rate: float = 0.05
    lexicon: Lexicon = field(default_factory=lambda: POOLS, repr=False)

    turns_multiple: ClassVar[int] = 1
    """Number of turns must be a multiple of this."""

    def __post_init__(self) -> None:
        """Reject settings that cannot make a transcript."""
        if self.turns < 8 or self.turns % self.turns_multiple:
            kind = {1: "a number", 2: "an even number"}.get(self.turns_multiple, f"a multiple of {self.turns_multiple}")
            raise StmError(f"turns is {self.turns}; expected {kind} of at least 8")
        if not 1 <= self.min_gap <= self.max_gap:
            raise StmError(f"gaps are {self.min_gap}..{self.max_gap}; expected 1 <= min_gap <= max_gap")
        if min(self.distractor_rate, self.chat_rate) < 0 or self.distractor_rate + self.chat_rate > 0.75:
            raise StmError(
                f"distractor_rate {self.distractor_rate} and chat_rate {self.chat_rate} must be at least 0 and at "
                "most 0.75 together; the rest are plans, changes and cancellations"
            )
        for name in ("entities", "templates"):
            if getattr(self, name) not in SPLITS:
                raise StmError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(SPLITS)}")

    @property
    @abstractmethod
    def name(self) -> str:
        """Name used in transcript ids."""

    @abstractmethod
    def script(self, rng: np.random.Generator) -> Script:
        """Return an empty script of this world, to be written with the numbers of ``rng``."""

    @property
    @abstractmethod
    def salt(self) -> int:
        """Number mixed into every seed, so that worlds with the same seed differ."""

    def generate(self, seed: int) -> Transcript:
        """Return the transcript of ``seed``."""
        return self.script(np.random.default_rng([seed, self.salt])).run(f"{self.name}-{seed}")


class Script(ABC):
    """A transcript while it is being written.

    Attributes:
        relations: The kinds of facts of this world.
        chain: The two facts that may be needed together, if any.
        turns: The turns so far.
        live: Facts that may still be needed, by id.
        mentioned: Ids of all facts so far; each is stated (and asked about) once.
        beat: Number of the current beat.
    """

    relations: ClassVar[tuple[Relation, ...]]
    chain: ClassVar[Chain | None] = None

    def __init__(self, world: ScriptWorld, rng: np.random.Generator) -> None:
        self.world = world
        self.rng = rng
        self.turns: list[Turn] = []
        self.probes: list[Probe] = []
        self.live: dict[str, Fact] = {}
        self.mentioned: set[str] = set()
        self.beat = 0

    # How this world tells what happens. Each method appends turns with `say`.

    @abstractmethod
    def tell_fact(self, fact: Fact, kind: str) -> int:
        """Tell a new fact as ``fact``, ``message`` or ``hedge``; return the index of the turn that holds the value."""

    @abstractmethod
    def tell_update(self, fact: Fact) -> int:
        """Tell that the fact has its new value; return the index of the turn that holds it."""

    @abstractmethod
    def tell_cancel(self, fact: Fact) -> None:
        """Tell that the fact no longer matters (kind ``cancel``, without its value)."""

    @abstractmethod
    def tell_distractor(self) -> None:
        """Tell gossip or the past (kind ``distractor``), usually from :meth:`rumour`."""

    @abstractmethod
    def tell_filler(self) -> None:
        """Tell something that is about no fact (kind ``chat``)."""

    @abstractmethod
    def tell_ask(self, facts: tuple[Fact, ...]) -> None:
        """Make the facts needed (kind ``ask``, in the last turn before the answer), without their values."""

    @abstractmethod
    def tell_answer(self, facts: tuple[Fact, ...]) -> int:
        """Give the values of the facts (kind ``answer``); return the index of the turn that holds them."""

    def new_key(self, relation: Relation) -> str:
        """Return whom or what a new fact is about."""
        return self.entity(relation.key)

    # Words.

    def pick(self, options: Sequence[Any]) -> Any:
        """Return one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def entity(self, pool: str) -> str:
        """Return one of the entities of a pool."""
        return str(self.pick(self.world.lexicon[pool].of(self.world.entities)))

    def phrase(self, phrasings: Phrasings, **slots: str) -> str:
        """Return one of the phrasings of this world's split, filled in."""
        return str(self.pick(self.options(phrasings))).format(**slots)

    def options(self, phrasings: tuple[Sequence[Any], Sequence[Any]]) -> Sequence[Any]:
        """Return the phrasings of this world's split."""
        return phrasings[1] if self.world.templates == "heldout" else phrasings[0]

    def phrase_ask(self, facts: tuple[Fact, ...]) -> str:
        """Return what makes the facts needed: one fact, or the two of the chain."""
        asks = facts[0].relation.asks if len(facts) == 1 or self.chain is None else self.chain.asks
        return self.phrase(asks, k=facts[0].key)

    def phrase_answer(self, facts: tuple[Fact, ...]) -> str:
        """Return a phrasing that gives the values of the facts: one fact, or the two of the chain."""
        if len(facts) == 1 or self.chain is None:
            return self.phrase(facts[0].relation.answers, k=facts[0].key, v=facts[0].value)
        return self.phrase(self.chain.answers, k=facts[0].key, i=facts[0].value, v=facts[1].value)

    def say(
        self, text: str, speaker: str, kind: str, *about: Fact, facts: tuple[StatedFact, ...] = (), **meta: Any
    ) -> int:
        """Append a turn and return its index.

        Args:
            text: The turn's text.
            speaker: Who says it; empty for prose.
            kind: One of :data:`~stm_rl.worlds.base.TURN_KINDS`.
            *about: The facts whose ids go into ``meta["keys"]``.
            facts: What the turn states or depends on, for ``meta["facts"]``.
            **meta: More meta data, such as ``element="action"`` or ``writable=False``.
        """
        known: dict[str, Any] = {"kind": kind, "keys": tuple(fact.id for fact in about)}
        if facts:
            known["facts"] = facts
        self.turns.append(Turn(text, speaker, {**known, **meta}))
        return len(self.turns) - 1

    # The course of events.

    def run(self, transcript_id: str) -> Transcript:
        """Write the transcript."""
        size = self.world.turns
        while len(self.turns) < size:
            self._next_beat()
            self.beat += 1
        probes = tuple(probe for probe in self.probes if probe.turn < size)
        return Transcript(tuple(self.turns[:size]), probes, transcript_id)

    def _next_beat(self) -> None:
        due = [fact for fact in self.live.values() if fact.due is not None and fact.due <= self.beat]
        if due:
            self._ask(min(due, key=lambda fact: fact.due or 0))
            return
        draw = self.rng.random() - self.world.distractor_rate
        if draw < 0:
            self.tell_distractor()
        elif draw < self.world.chat_rate:
            self.tell_filler()
        elif (draw := draw - self.world.chat_rate) < UPDATES:
            self._update()
        elif draw < UPDATES + CANCELS:
            self._cancel()
        else:
            self._inform()

    def _inform(self) -> None:
        first = self._first_without_second()
        if self.chain is not None and first is not None and self.rng.random() < self.chain.share:
            relation, key = self.chain.second, first.value
        else:
            relation = self.pick(self.relations)
            key = self.new_key(relation)
            first = None
        fact = Fact(relation, key, "")
        if fact.id in self.mentioned:
            self.tell_filler()
            return
        fact.value = self.entity(relation.value)
        draw = self.rng.random()
        kind = "fact"
        if relation.hedged[0] and draw < HEDGES:
            kind = "hedge"
        elif draw < HEDGES + MESSAGES:
            kind = "message"
        fact.turn = self.tell_fact(fact, kind)
        self.mentioned.add(fact.id)
        if self.rng.random() < ASKED_WITH_PROBABILITY[kind]:
            fact.due = self._new_due()
            if first is not None:
                first.due = None  # needed together with this one
        self.live[fact.id] = fact

    def _new_due(self) -> int:
        return self.beat + int(self.rng.integers(self.world.min_gap, self.world.max_gap + 1))

    def _first_without_second(self) -> Fact | None:
        """Return a live first fact of the chain whose second fact is not known yet."""
        chain = self.chain
        if chain is None:
            return None
        firsts = [f for f in self.live.values() if f.relation.name == chain.first and f.due is not None]
        firsts = [f for f in firsts if f"{chain.second.name}:{f.value}" not in self.mentioned]
        return self.pick(firsts) if firsts else None

    def _first_of(self, second: Fact) -> Fact | None:
        """Return the first fact of the chain that ``second`` continues, if there is one."""
        if self.chain is not None and second.relation is self.chain.second:
            for fact in self.live.values():
                if fact.relation.name == self.chain.first and fact.value == second.key:
                    return fact
        return None

    def _update(self) -> None:
        options = [f for f in self.live.values() if f.due is not None and self._can_change(f)]
        if not options:
            self._inform()
            return
        fact: Fact = self.pick(options)
        fact.stale.append(fact.turn)
        fact.values.append(fact.value)
        while fact.value in fact.values:
            fact.value = self.entity(fact.relation.value)
        fact.turn = self.tell_update(fact)
        fact.due = max(fact.due or 0, self._new_due())

    def _can_change(self, fact: Fact) -> bool:
        """Return whether there is a value the fact has not had yet, and a way to say it."""
        values = set(self.world.lexicon[fact.relation.value].of(self.world.entities))
        return bool(fact.relation.updates[0]) and not values <= {fact.value, *fact.values}

    def _cancel(self) -> None:
        needed = set() if self.chain is None else {f.key for f in self.live.values() if f.relation is self.chain.second}
        options = [f for f in self.live.values() if f.relation.cancels[0] and f.value not in needed]
        options = [f for f in options if self._first_of(f) is None]  # either would leave half a chain
        if not options:
            self.tell_filler()
            return
        fact: Fact = self.pick(options)
        self.tell_cancel(fact)
        del self.live[fact.id]

    def rumour(self) -> Fact:
        """Return something that does not matter, half of the time about somebody or something that does."""
        relation = self.pick(self.relations)
        live_keys = [f.key for f in self.live.values() if f.relation.key == relation.key]
        key = self.pick(live_keys) if live_keys and self.rng.random() < 0.5 else self.new_key(relation)
        return Fact(relation, key, self.entity(relation.value))

    def _ask(self, fact: Fact) -> None:
        first = self._first_of(fact)
        facts = (fact,) if first is None else (first, fact)
        self.tell_ask(facts)
        turn = self.tell_answer(facts)
        evidence = tuple(sorted(fact.turn for fact in facts))
        stale = tuple(sorted(index for fact in facts for index in fact.stale))
        self.probes.append(Probe(turn, evidence, " ".join(fact.value for fact in facts), stale))
        for fact in facts:
            del self.live[fact.id]

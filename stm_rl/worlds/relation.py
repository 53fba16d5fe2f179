"""Kinds of facts, their phrasings, and facts: what all procedural worlds are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

Phrasings = tuple[tuple[str, ...], tuple[str, ...]]
"""Phrasings of training episodes, then held-out ones; ``{k}`` is the key of a fact, ``{v}`` its value."""

StatedFact = tuple[str, str, str]
"""A fact in a turn's ``meta["facts"]``: fact id (``relation:key``), value, name of the value's pool."""

NONE: Phrasings = ((), ())
"""For what a relation has no words for, such as a hedge; such events then do not happen to its facts."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact that maps one key to one value.

    Attributes:
        name: Short name; with the key it identifies a fact.
        key: Name of the pool the key comes from.
        value: Name of the pool the value comes from.
        facts: Stated as a plan or a state of affairs: usually needed later.
        messages: Reported by somebody else; needed as often as ``facts``.
        hedged: Mentioned as a mere possibility: seldom needed.
        updates: The value is replaced.
        cancels: Called off: never needed again.
        distractors: Same words, but gossip or the past: never needed.
        asks: What makes the value needed: a question, or a sentence that calls for it.
        answers: Gives the value.
    """

    name: str
    key: str
    value: str
    facts: Phrasings
    messages: Phrasings
    hedged: Phrasings
    updates: Phrasings
    cancels: Phrasings
    distractors: Phrasings
    asks: Phrasings
    answers: Phrasings


@dataclass(frozen=True, slots=True)
class Chain:
    """Two facts that are needed together: the value of the first is the key of the second.

    Attributes:
        first: Name of the relation of the first fact.
        second: Relation of the second fact; its key pool is the value pool of the first.
        asks: What makes both needed; ``{k}`` is the key of the first fact.
        answers: Gives both; ``{i}`` is the value of the first fact, ``{v}`` that of the second.
        share: How often, where a first fact lacks its second, the next fact is that second.
    """

    first: str
    second: Relation
    asks: Phrasings
    answers: Phrasings
    share: float = 0.35


@dataclass(slots=True)
class Fact:
    """A fact that may still be needed.

    Attributes:
        relation: What kind of fact it is.
        key: Whom or what it is about.
        value: Its value now.
        turn: Index of the turn that last stated it.
        stale: Indices of the turns that stated it before.
        values: The values it had before.
        due: Beat from which it is needed; ``None`` if never, or only together with another fact.
    """

    relation: Relation
    key: str
    value: str
    turn: int = -1
    stale: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    due: int | None = None

    @property
    def id(self) -> str:
        """The relation and the key."""
        return f"{self.relation.name}:{self.key}"

    @property
    def stated(self) -> StatedFact:
        """The fact as it stands in ``meta["facts"]``."""
        return (self.id, self.value, self.relation.value)

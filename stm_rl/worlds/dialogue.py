"""A user and an assistant talk through a busy week.

The user mentions plans, changes and cancels them, gossips, chats, and later asks. Each plan is
asked about once, and only if it is still on. Nothing says outright what will be asked; the way a
thing is said does. See ``docs/worlds.md`` for the rules and a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stm_rl.errors import StmError
from stm_rl.transcript import Probe, Transcript, Turn
from stm_rl.worlds import dialogue_templates as say
from stm_rl.worlds.dialogue_templates import Phrasings, Relation
from stm_rl.worlds.lexicon import POOLS, Lexicon

SPLITS = ("train", "heldout")
ASKED_WITH_PROBABILITY = {"fact": 0.9, "message": 0.9, "hedge": 0.15}


@dataclass(slots=True)
class _Fact:
    """A fact that may still be asked about."""

    relation: Relation
    key: str
    value: str
    turn: int
    stale: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    due: int | None = None

    @property
    def id(self) -> str:
        return f"{self.relation.name}:{self.key}"


@dataclass(frozen=True, slots=True)
class DialogueWorld:
    """Generator of assistant dialogues.

    Attributes:
        turns: Turns in a transcript; even, at least 8.
        min_gap: Least number of exchanges (of two turns) from a fact to the question about it.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things no training transcript contains.
        templates: ``train``, or ``heldout`` for phrasings no training transcript contains.
        distractor_rate: Share of exchanges without a due question that are gossip.
        chat_rate: Share of such exchanges that are small talk.
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

    def __post_init__(self) -> None:
        """Reject settings that cannot make a dialogue."""
        if self.turns < 8 or self.turns % 2:
            raise StmError(f"turns is {self.turns}; expected an even number of at least 8")
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
    def name(self) -> str:
        """Name used in transcript ids."""
        return "dialogue"

    def generate(self, seed: int) -> Transcript:
        """Return the transcript of ``seed``."""
        return _Conversation(self, np.random.default_rng([seed, 0xD1A])).run(f"{self.name}-{seed}")


class _Conversation:
    """State of one dialogue while it is being written."""

    def __init__(self, world: DialogueWorld, rng: np.random.Generator) -> None:
        self.world = world
        self.rng = rng
        self.turns: list[Turn] = []
        self.probes: list[Probe] = []
        self.live: dict[str, _Fact] = {}
        self.mentioned: set[str] = set()

    def run(self, transcript_id: str) -> Transcript:
        for exchange in range(self.world.turns // 2):
            due = [fact for fact in self.live.values() if fact.due is not None and fact.due <= exchange]
            if due:
                self._ask(min(due, key=lambda fact: fact.due or 0))
                continue
            draw = self.rng.random() - self.world.distractor_rate
            if draw < 0:
                self._gossip()
            elif draw < self.world.chat_rate:
                self._chat()
            elif (draw := draw - self.world.chat_rate) < 0.1:
                self._update(exchange)
            elif draw < 0.13:
                self._cancel()
            else:
                self._inform(exchange)
        return Transcript(tuple(self.turns), tuple(self.probes), transcript_id)

    # Saying things.

    def _pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def _phrase(self, phrasings: Phrasings, **slots: str) -> str:
        train, heldout = phrasings
        text = self._pick(heldout if self.world.templates == "heldout" else train)
        return str(text).format(**slots)

    def _entity(self, pool: str) -> str:
        return str(self._pick(self.world.lexicon[pool].of(self.world.entities)))

    def _user(self, text: str, kind: str, *keys: str) -> int:
        self.turns.append(Turn(text, "user", {"kind": kind, "keys": keys}))
        return len(self.turns) - 1

    def _assistant(self, text: str, kind: str, *keys: str) -> int:
        self.turns.append(Turn(text, "assistant", {"kind": kind, "keys": keys}))
        return len(self.turns) - 1

    # Exchanges.

    def _inform(self, exchange: int) -> None:
        gift = self._gift_without_shop()
        if gift is not None and self.rng.random() < 0.35:
            relation, key = say.SHOP, gift.value
        else:
            relation = self._pick(say.RELATIONS)
            key = self._entity(relation.key)
        if f"{relation.name}:{key}" in self.mentioned:
            self._chat()
            return
        value = self._entity(relation.value)
        fact = _Fact(relation, key, value, -1)
        draw = self.rng.random()
        if relation.hedged[0] and draw < 0.2:
            kind = "hedge"
            fact.turn = self._user(self._phrase(relation.hedged, k=key, v=value), kind, fact.id)
            self._assistant(self._phrase(say.ACKS), "reply")
        elif draw < 0.4:
            kind = "message"
            self._user(self._phrase(say.NEWS_ASKS), "chat")
            fact.turn = self._assistant(self._phrase(relation.messages, k=key, v=value), kind, fact.id)
        else:
            kind = "fact"
            text = self._phrase(relation.facts, k=key, v=value)
            if self.rng.random() < 0.15:
                text += self._phrase(say.EMPHASIS)
            fact.turn = self._user(text, kind, fact.id)
            self._assistant(self._phrase(say.ACKS), "reply")
        self.mentioned.add(fact.id)
        if self.rng.random() < ASKED_WITH_PROBABILITY[kind]:
            fact.due = self._due(exchange)
            if gift is not None and relation is say.SHOP:
                gift.due = None  # asked together with the shop
        self.live[fact.id] = fact

    def _due(self, exchange: int) -> int:
        return exchange + int(self.rng.integers(self.world.min_gap, self.world.max_gap + 1))

    def _gift_without_shop(self) -> _Fact | None:
        gifts = [f for f in self.live.values() if f.relation.name == "gift" and f.due is not None]
        gifts = [f for f in gifts if f"shop:{f.value}" not in self.mentioned]
        return self._pick(gifts) if gifts else None

    def _gift_of(self, shop: _Fact) -> _Fact | None:
        for fact in self.live.values():
            if fact.relation.name == "gift" and fact.value == shop.key:
                return fact
        return None

    def _update(self, exchange: int) -> None:
        options = [f for f in self.live.values() if f.due is not None and self._can_change(f)]
        if not options:
            self._inform(exchange)
            return
        fact = self._pick(options)
        fact.stale.append(fact.turn)
        fact.values.append(fact.value)
        while fact.value in fact.values:
            fact.value = self._entity(fact.relation.value)
        fact.turn = self._user(self._phrase(fact.relation.updates, k=fact.key, v=fact.value), "update", fact.id)
        self._assistant(self._phrase(say.ACKS), "reply")
        fact.due = max(fact.due, self._due(exchange))

    def _can_change(self, fact: _Fact) -> bool:
        """Return whether there is a value the fact has not had yet, and a way to say it."""
        values = set(self.world.lexicon[fact.relation.value].of(self.world.entities))
        return bool(fact.relation.updates[0]) and not values <= {fact.value, *fact.values}

    def _cancel(self) -> None:
        shopped = {f.key for f in self.live.values() if f.relation is say.SHOP}
        options = [f for f in self.live.values() if f.relation.cancels[0] and f.value not in shopped]
        if not options:
            self._chat()
            return
        fact = self._pick(options)
        self._user(self._phrase(fact.relation.cancels, k=fact.key), "cancel", fact.id)
        self._assistant(self._phrase(say.CANCEL_ACKS), "reply")
        del self.live[fact.id]

    def _gossip(self) -> None:
        self._user(self._rumour(), "distractor")
        if self.rng.random() < 0.5:
            self._assistant(self._rumour(), "distractor")
        else:
            self._assistant(self._phrase(say.GOSSIP_REPLIES), "reply")

    def _rumour(self) -> str:
        relation = self._pick(say.RELATIONS)
        live_keys = [f.key for f in self.live.values() if f.relation.key == relation.key]
        key = self._pick(live_keys) if live_keys and self.rng.random() < 0.5 else self._entity(relation.key)
        return self._phrase(relation.distractors, k=key, v=self._entity(relation.value))

    def _chat(self) -> None:
        train, heldout = say.CHAT
        opener, reply = self._pick(heldout if self.world.templates == "heldout" else train)
        self._user(opener, "chat")
        self._assistant(reply, "chat")

    def _ask(self, fact: _Fact) -> None:
        if fact.relation is say.SHOP and (gift := self._gift_of(fact)) is not None:
            self._user(self._phrase(say.SHOP.asks, k=gift.key), "ask", gift.id, fact.id)
            text = self._phrase(say.SHOP.answers, k=gift.key, i=gift.value, v=fact.value)
            self._answer(text, f"{gift.value} {fact.value}", gift, fact)
        else:
            self._user(self._phrase(fact.relation.asks, k=fact.key), "ask", fact.id)
            self._answer(self._phrase(fact.relation.answers, k=fact.key, v=fact.value), fact.value, fact)

    def _answer(self, text: str, answer: str, *facts: _Fact) -> None:
        turn = self._assistant(text, "answer")
        evidence = tuple(sorted(fact.turn for fact in facts))
        stale = tuple(sorted(index for fact in facts for index in fact.stale))
        self.probes.append(Probe(turn, evidence, answer, stale))
        for fact in facts:
            del self.live[fact.id]

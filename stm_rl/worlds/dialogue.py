"""A user and an assistant talk through a busy week.

The user mentions plans, changes and cancels them, gossips, chats, and later asks. Each plan is
asked about once, and only if it is still on. Nothing says outright what will be asked; the way a
thing is said does. See ``docs/worlds.md`` for the rules and a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stm_rl.worlds import dialogue_templates as say
from stm_rl.worlds.relation import Fact
from stm_rl.worlds.script import ASKED_WITH_PROBABILITY, SPLITS, Script, ScriptWorld

__all__ = ["ASKED_WITH_PROBABILITY", "SPLITS", "DialogueScript", "DialogueWorld"]


@dataclass(frozen=True, slots=True)
class DialogueWorld(ScriptWorld):
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

    turns_multiple: ClassVar[int] = 2

    @property
    def name(self) -> str:
        """Name used in transcript ids."""
        return "dialogue"

    @property
    def salt(self) -> int:
        """Number mixed into every seed."""
        return 0xD1A

    def script(self, rng: np.random.Generator) -> Script:
        """Return an empty dialogue."""
        return DialogueScript(self, rng)


class DialogueScript(Script):
    """A dialogue while it is being written; every beat is an exchange of two turns."""

    relations = say.RELATIONS
    chain = say.CHAIN

    def tell_fact(self, fact: Fact, kind: str) -> int:
        """Let the user state it, or the assistant report it when asked for news."""
        relation, words = fact.relation, {"k": fact.key, "v": fact.value}
        if kind == "message":
            self.say(self.phrase(say.NEWS_ASKS), "user", "chat")
            return self.say(self.phrase(relation.messages, **words), "assistant", kind, fact, facts=(fact.stated,))
        text = self.phrase(relation.hedged if kind == "hedge" else relation.facts, **words)
        if kind == "fact" and self.rng.random() < 0.15:
            text += self.phrase(say.EMPHASIS)
        turn = self.say(text, "user", kind, fact, facts=(fact.stated,))
        self.say(self.phrase(say.ACKS), "assistant", "reply")
        return turn

    def tell_update(self, fact: Fact) -> int:
        """Let the user change a plan."""
        text = self.phrase(fact.relation.updates, k=fact.key, v=fact.value)
        turn = self.say(text, "user", "update", fact, facts=(fact.stated,))
        self.say(self.phrase(say.ACKS), "assistant", "reply")
        return turn

    def tell_cancel(self, fact: Fact) -> None:
        """Let the user call a plan off."""
        self.say(self.phrase(fact.relation.cancels, k=fact.key), "user", "cancel", fact)
        self.say(self.phrase(say.CANCEL_ACKS), "assistant", "reply")

    def tell_distractor(self) -> None:
        """Let the user gossip; the assistant may gossip back."""
        self._gossip("user")
        if self.rng.random() < 0.5:
            self._gossip("assistant")
        else:
            self.say(self.phrase(say.GOSSIP_REPLIES), "assistant", "reply")

    def _gossip(self, speaker: str) -> None:
        rumour = self.rumour()
        text = self.phrase(rumour.relation.distractors, k=rumour.key, v=rumour.value)
        self.say(text, speaker, "distractor", facts=(rumour.stated,))

    def tell_filler(self) -> None:
        """Let both make small talk."""
        opener, reply = self.pick(self.options(say.CHAT))
        self.say(opener, "user", "chat")
        self.say(reply, "assistant", "chat")

    def tell_ask(self, facts: tuple[Fact, ...]) -> None:
        """Let the user ask."""
        self.say(self.phrase_ask(facts), "user", "ask", *facts)

    def tell_answer(self, facts: tuple[Fact, ...]) -> int:
        """Let the assistant answer."""
        return self.say(self.phrase_answer(facts), "assistant", "answer", facts=tuple(fact.stated for fact in facts))

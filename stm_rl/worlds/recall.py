"""Statements go by, and questions about them are scored.

The relations of the dialogue world without its acknowledgements: every turn is a statement, or a
question, or its answer, which is nothing but the value. Questions and answers may not be written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm_rl.worlds import dialogue_templates as say
from stm_rl.worlds.relation import Fact
from stm_rl.worlds.script import Script, ScriptWorld


@dataclass(frozen=True, slots=True)
class RecallWorld(ScriptWorld):
    """Generator of statements with questions in between.

    Attributes:
        turns: Turns in a transcript; at least 8.
        min_gap: Least number of beats (a statement, or a question and its answer) from a fact to its question.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things no training transcript contains.
        templates: ``train``, or ``heldout`` for phrasings no training transcript contains.
        distractor_rate: Share of beats without a due question that are gossip.
        chat_rate: Share of such beats that are small talk.
        lexicon: Where names and things come from.
    """

    min_gap: int = 6
    max_gap: int = 18
    distractor_rate: float = 0.45
    chat_rate: float = 0.15

    @property
    def name(self) -> str:
        """Name used in transcript ids."""
        return "recall"

    @property
    def salt(self) -> int:
        """Number mixed into every seed."""
        return 0x2EC

    def script(self, rng: np.random.Generator) -> Script:
        """Return an empty transcript."""
        return RecallScript(self, rng)


class RecallScript(Script):
    """Statements and questions while they are being written."""

    relations = say.RELATIONS
    chain = say.CHAIN

    def tell_fact(self, fact: Fact, kind: str) -> int:
        """Let the user state it, or the assistant report it."""
        relation = fact.relation
        phrasings = {"fact": relation.facts, "message": relation.messages, "hedge": relation.hedged}[kind]
        text = self.phrase(phrasings, k=fact.key, v=fact.value)
        return self.say(text, "assistant" if kind == "message" else "user", kind, fact, facts=(fact.stated,))

    def tell_update(self, fact: Fact) -> int:
        """Let the user change a plan."""
        text = self.phrase(fact.relation.updates, k=fact.key, v=fact.value)
        return self.say(text, "user", "update", fact, facts=(fact.stated,))

    def tell_cancel(self, fact: Fact) -> None:
        """Let the user call a plan off."""
        self.say(self.phrase(fact.relation.cancels, k=fact.key), "user", "cancel", fact)

    def tell_distractor(self) -> None:
        """Let one of them gossip."""
        rumour = self.rumour()
        text = self.phrase(rumour.relation.distractors, k=rumour.key, v=rumour.value)
        self.say(text, self._speaker(), "distractor", facts=(rumour.stated,))

    def tell_filler(self) -> None:
        """Let one of them make small talk."""
        opener, _ = self.pick(self.options(say.CHAT))
        self.say(opener, self._speaker(), "chat")

    def _speaker(self) -> str:
        return "user" if self.rng.random() < 0.75 else "assistant"

    def tell_ask(self, facts: tuple[Fact, ...]) -> None:
        """Ask."""
        self.say(self.phrase_ask(facts), "question", "ask", *facts, writable=False)

    def tell_answer(self, facts: tuple[Fact, ...]) -> int:
        """Give the values alone."""
        text = " ".join(fact.value for fact in facts)
        return self.say(text, "answer", "answer", facts=tuple(fact.stated for fact in facts), writable=False)

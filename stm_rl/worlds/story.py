"""A story in which what was told early is needed later.

Characters take things along, hide treasures, set out for places, vow, fear and promise. Things change
hands and plans change. Rumours, songs and the past speak of the same names without mattering. A cue
sentence calls for what was told, and the sentence after it gives it. See ``docs/worlds.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm_rl.worlds import story_templates as say
from stm_rl.worlds.relation import Fact, Relation
from stm_rl.worlds.script import Script, ScriptWorld


@dataclass(frozen=True, slots=True)
class StoryWorld(ScriptWorld):
    """Generator of stories; every turn is a sentence and has no speaker.

    Attributes:
        turns: Sentences in a story; at least 8.
        min_gap: Least number of beats (a sentence, or a cue and its answer) from a fact to the cue that needs it.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things no training transcript contains.
        templates: ``train``, or ``heldout`` for phrasings no training transcript contains.
        distractor_rate: Share of sentences without a due cue that are rumours or the past.
        chat_rate: Share of such sentences that are filler.
        lexicon: Where names and things come from.
    """

    min_gap: int = 6
    max_gap: int = 18
    distractor_rate: float = 0.45
    chat_rate: float = 0.15

    @property
    def name(self) -> str:
        """Name used in transcript ids."""
        return "story"

    @property
    def salt(self) -> int:
        """Number mixed into every seed."""
        return 0x5708

    def script(self, rng: np.random.Generator) -> Script:
        """Return an empty story."""
        return StoryScript(self, rng)


class StoryScript(Script):
    """A story while it is being written; every beat is a sentence, or a cue and its answer."""

    relations = say.RELATIONS
    chain = say.CHAIN
    cast_size = 16

    def __init__(self, world: ScriptWorld, rng: np.random.Generator) -> None:
        super().__init__(world, rng)
        names = world.lexicon["person"].of(world.entities)
        chosen = rng.choice(len(names), min(self.cast_size, len(names)), replace=False)
        self.cast = [names[int(index)] for index in chosen]

    def new_key(self, relation: Relation) -> str:
        """Return somebody of the cast, so that the same characters come back, or any thing."""
        return str(self.pick(self.cast)) if relation.key == "person" else self.entity(relation.key)

    def tell_fact(self, fact: Fact, kind: str) -> int:
        """Tell it in one sentence."""
        relation = fact.relation
        phrasings = {"fact": relation.facts, "message": relation.messages, "hedge": relation.hedged}[kind]
        return self.say(self.phrase(phrasings, k=fact.key, v=fact.value), "", kind, fact, facts=(fact.stated,))

    def tell_update(self, fact: Fact) -> int:
        """Tell what changed."""
        text = self.phrase(fact.relation.updates, k=fact.key, v=fact.value)
        return self.say(text, "", "update", fact, facts=(fact.stated,))

    def tell_cancel(self, fact: Fact) -> None:
        """Tell how it came to nothing."""
        self.say(self.phrase(fact.relation.cancels, k=fact.key), "", "cancel", fact)

    def tell_distractor(self) -> None:
        """Tell of the past, a song or a dream."""
        rumour = self.rumour()
        text = self.phrase(rumour.relation.distractors, k=rumour.key, v=rumour.value)
        self.say(text, "", "distractor", facts=(rumour.stated,))

    def tell_filler(self) -> None:
        """Tell of the weather and the like."""
        self.say(self.phrase(say.FILLERS), "", "chat")

    def tell_ask(self, facts: tuple[Fact, ...]) -> None:
        """Tell what calls for the facts."""
        self.say(self.phrase_ask(facts), "", "ask", *facts)

    def tell_answer(self, facts: tuple[Fact, ...]) -> int:
        """Tell what follows from the facts."""
        return self.say(self.phrase_answer(facts), "", "answer", facts=tuple(fact.stated for fact in facts))

    def _first_of(self, second: Fact) -> Fact | None:
        """Leave out a first fact that was told after the second: it would be needed at once."""
        first = super()._first_of(second)
        return first if first is not None and first.turn < second.turn else None

"""Partners in crime plan their next move.

Scene by scene a small cast speaks of who carries what, who is where, what is hidden where, who was promised
what, codes and secrets; some of it is only shown, in action lines. Things change hands and places, are lost
and remembered wrongly, and later somebody needs to know. See ``docs/worlds.md`` for the rules and a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stm_rl.worlds import screenplay_templates as say
from stm_rl.worlds.lexicon import Lexicon
from stm_rl.worlds.relation import Fact, Phrasings
from stm_rl.worlds.script import Script, ScriptWorld

CAST = 4
"""Characters of a script; two or three of them are in a scene."""
SCENE = (4, 8)
"""Least and greatest number of beats in a scene."""
REACTION, MANNER, EMPHASIS = 0.6, 0.25, 0.15
"""Shares of statements with a reaction, of dialogue with a parenthetical, of spoken facts with a plea to remember."""
OPENING, TRANSITION = 0.3, 0.4
"""Shares of scenes that open with what the characters do, and that follow a transition."""


@dataclass(frozen=True, slots=True)
class ScreenplayWorld(ScriptWorld):
    """Generator of screenplays.

    Turns are the elements of a Fountain screenplay: ``meta["element"]`` is ``scene_heading``, ``action``,
    ``dialogue`` or ``transition``, and ``stm_rl.readers.fountain`` writes them to a file.

    Attributes:
        turns: Turns in a transcript; at least 8.
        min_gap: Least number of beats (mostly of two turns) from a fact to the need for it.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things no training transcript contains.
        templates: ``train``, or ``heldout`` for phrasings no training transcript contains.
        distractor_rate: Share of beats without a due fact that are rumours and memories.
        chat_rate: Share of such beats that are small talk and atmosphere.
        lexicon: Where names and things come from.
    """

    lexicon: Lexicon = field(default_factory=lambda: say.SCREENPLAY_POOLS, repr=False)

    @property
    def name(self) -> str:
        """Name used in transcript ids."""
        return "screenplay"

    @property
    def salt(self) -> int:
        """Number mixed into every seed."""
        return 0x5C2

    def script(self, rng: np.random.Generator) -> Script:
        """Return an empty screenplay."""
        return ScreenplayScript(self, rng)


class ScreenplayScript(Script):
    """A screenplay while it is being written; every beat is between two characters."""

    relations = say.RELATIONS
    chain = say.CHAIN

    def __init__(self, world: ScriptWorld, rng: np.random.Generator) -> None:
        super().__init__(world, rng)
        self._cast = self._some(world.lexicon["role"].of(world.entities), CAST)
        self._on_stage = self._cast
        self._place = ""
        self._next_scene = 0
        self._a = self._b = ""

    def phrase(self, phrasings: Phrasings, **slots: str) -> str:
        """Return one of the phrasings, filled in, with the two characters of the beat."""
        return super().phrase(phrasings, **self._characters, **slots)

    # What happens in a beat.

    def tell_fact(self, fact: Fact, kind: str) -> int:
        """Let a character say it, or show it in an action line."""
        self._begin()
        options = {"fact": fact.relation.facts, "message": fact.relation.messages, "hedge": fact.relation.hedged}
        text = self.phrase(options[kind], k=fact.key, v=fact.value)
        if kind == "fact" and self.rng.random() < EMPHASIS:
            text += self.phrase(say.EMPHASIS)
        turn = self._tell(text, self._a, kind, fact)
        self._react(say.ACKS)
        return turn

    def tell_update(self, fact: Fact) -> int:
        """Let it change hands or places, in words or in an action line."""
        self._begin()
        turn = self._tell(self.phrase(fact.relation.updates, k=fact.key, v=fact.value), self._a, "update", fact)
        self._react(say.ACKS)
        return turn

    def tell_cancel(self, fact: Fact) -> None:
        """Let it be lost, or no longer matter."""
        self._begin()
        self._tell(self.phrase(fact.relation.cancels, k=fact.key), self._a, "cancel", fact, stated=())
        self._react(say.CANCEL_ACKS)

    def tell_distractor(self) -> None:
        """Let a rumour be told or the past be shown, and half of the time another in return."""
        self._begin()
        self._rumour(self._a)
        if self.rng.random() < 0.5:
            self._rumour(self._b)
        else:
            self._react(say.GOSSIP_REPLIES, say.REMEMBERED)

    def _rumour(self, speaker: str) -> None:
        rumour = self.rumour()
        text = self.phrase(rumour.relation.distractors, k=rumour.key, v=rumour.value)
        self._tell(text, speaker, "distractor", stated=(rumour,))

    def tell_filler(self) -> None:
        """Let the characters make small talk, or describe the scene."""
        self._begin()
        opener, reply = self.pick(self.options(say.CHAT))
        self._tell(opener.format(**self._characters), self._a, "chat")
        self._tell(reply.format(**self._characters), self._b, "chat")

    def tell_ask(self, facts: tuple[Fact, ...]) -> None:
        """Let a character ask, or look for what is needed."""
        self._begin()
        self._tell(self.phrase_ask(facts), self._a, "ask", *facts, stated=())

    def tell_answer(self, facts: tuple[Fact, ...]) -> int:
        """Let the other character answer, or act on what is known."""
        return self._tell(self.phrase_answer(facts), self._b, "answer", stated=facts)

    def _first_of(self, second: Fact) -> Fact | None:
        """Leave out a first fact that was told after the second: it would be needed at once."""
        first = super()._first_of(second)
        return first if first is not None and first.turn < second.turn else None

    # Elements.

    def _react(self, heard: Phrasings, seen: Phrasings = say.SEEN) -> None:
        """Let the other character react to what was said, or to what is to be seen."""
        if self.rng.random() < REACTION:
            shown = self.turns[-1].meta["element"] == "action"
            self._tell(self.phrase(seen if shown else heard), self._b, "reply")

    def _tell(self, text: str, speaker: str, kind: str, *about: Fact, stated: tuple[Fact, ...] | None = None) -> int:
        """Append an action line or, of anything else, a dialogue block; facts it is about are those it states."""
        facts = tuple(fact.stated for fact in (about if stated is None else stated))
        if text.startswith(say.ACTION):
            return self.say(text.removeprefix(say.ACTION), "", kind, *about, facts=facts, element="action")
        if self.rng.random() < MANNER:
            manners = say.MANNERS.get(kind, say.MANNERS[""]) if self.rng.random() < 0.5 else say.MANNERS[""]
            text = f"({self.phrase(manners)}) {text}"
        return self.say(text, speaker.upper(), kind, *about, facts=facts, element="dialogue")

    def _begin(self) -> None:
        """Choose who acts in the beat, in a new scene if it is time for one."""
        new = self.beat >= self._next_scene
        if new:
            self._next_scene = self.beat + int(self.rng.integers(SCENE[0], SCENE[1] + 1))
            self._on_stage = self._some(self._cast, 2 + int(self.rng.integers(2)))
            self._set_scene()
        last = self.turns[-1].speaker
        first, second = self._some(self._on_stage, 2)
        # Nobody speaks twice in a row, as that would be one dialogue block.
        self._a, self._b = (second, first) if first.upper() == last else (first, second)
        if new and self.rng.random() < OPENING:
            self._tell(self.phrase(say.OPENINGS), "", "chat")

    def _set_scene(self) -> None:
        if self.turns and self.rng.random() < TRANSITION:
            self.say(self.phrase(say.TRANSITIONS), "", "chat", element="transition")
        before = self._place
        while self._place == before:
            self._place = self.phrase(say.SETS)
        self.say(f"{self._place} - {self.phrase(say.TIMES)}", "", "chat", element="scene_heading")

    @property
    def _characters(self) -> dict[str, str]:
        return {"a": f"The {self._a}", "b": f"The {self._b}"}

    def _some(self, names: tuple[str, ...], count: int) -> tuple[str, ...]:
        """Return ``count`` of the names, in random order."""
        return tuple(names[int(index)] for index in self.rng.permutation(len(names))[:count])

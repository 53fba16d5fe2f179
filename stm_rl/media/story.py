"""Picture and sound stories: somebody shows an object early, and a late sentence says what it was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stm_rl.errors import StmError
from stm_rl.media.objects import MEDIA
from stm_rl.transcript import IMAGE, KINDS, Media, Probe, Transcript, Turn
from stm_rl.worlds.lexicon import PERSON

NARRATOR = "narrator"
CHAT = ("The weather is fine today.", "The train was late again.", "Let us have some tea.", "It is rather quiet here.")
LATER = "The others went on talking."
EVENINGS = 2
"""Turns between the last picture and the first question, so that no picture is still in a window of two turns."""


@dataclass(frozen=True)
class PictureWorld:
    """Generator of picture stories, and of sound stories.

    Some people show a picture of what they bought, others one from a catalogue, which nobody asks about; some chat.
    At the end the narrator asks what each of the buyers bought, in any order, and says it: the object is in the picture
    alone, never in a text before. In sound stories they let others hear it instead.

    Attributes:
        turns: Turns in a story.
        buyers: People who show what they bought.
        browsers: People who show something that they did not buy.
        medium: ``image`` or ``audio``.
        colours: Colours of objects, or pitches, 2 to 4.
        shapes: Shapes of objects, or instruments, 2 to 4.
        noise: Standard deviation of the noise on each channel of a pixel, in steps of 255, or on each sample of a
            sound, as a share of 255 to full scale.
        entities: ``train``, or ``heldout`` for people no training story contains.
    """

    turns: int = 17
    buyers: int = 3
    browsers: int = 2
    medium: str = IMAGE
    colours: int = 4
    shapes: int = 4
    noise: float = 20.0
    entities: str = "train"

    def __post_init__(self) -> None:
        """Reject settings that cannot make a story."""
        if self.buyers < 1 or self.browsers < 0:
            raise StmError(f"buyers is {self.buyers} and browsers {self.browsers}; expected at least 1 and 0")
        if self.turns < (least := 3 * self.buyers + self.browsers + EVENINGS):
            raise StmError(
                f"turns is {self.turns}; expected at least {least}: a picture, a question and an answer for each of "
                f"{self.buyers} buyers, {self.browsers} pictures from catalogues and {EVENINGS} turns between"
            )
        if self.medium not in MEDIA:
            raise StmError(f"medium is {self.medium!r}; expected {' or '.join(KINDS)}")
        medium = MEDIA[self.medium]
        counts = (self.colours, len(medium.qualities)), (self.shapes, len(medium.things))
        for name, (value, most) in zip(("colours", "shapes"), counts, strict=True):
            if not 2 <= value <= most:
                raise StmError(f"{name} is {value}; expected 2 to {most}")
        if self.noise < 0:
            raise StmError(f"noise is {self.noise}; expected at least 0")
        if self.entities not in ("train", "heldout"):
            raise StmError(f"entities is {self.entities!r}; expected train or heldout")
        if self.buyers + self.browsers > (most := len(PERSON.of(self.entities))):
            raise StmError(f"buyers and browsers are {self.buyers + self.browsers}; expected at most {most} in all")

    @property
    def name(self) -> str:
        """Name used in transcript ids."""
        return "picture-story" if self.medium == IMAGE else "sound-story"

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """The objects that may be shown, such as ``red square`` or ``low flute``."""
        medium = MEDIA[self.medium]
        things = medium.things[: self.shapes]
        return tuple(f"{quality} {thing}" for quality in medium.qualities[: self.colours] for thing in things)

    def generate(self, seed: int) -> Transcript:
        """Return the story of ``seed``; the same seed always gives the same story."""
        rng, medium = np.random.default_rng([seed, 0x91C]), MEDIA[self.medium]
        people = rng.choice(PERSON.of(self.entities), self.buyers + self.browsers, replace=False).tolist()
        chats = self.turns - 3 * self.buyers - self.browsers - EVENINGS
        shown = rng.integers(len(self.objects), size=len(people)).tolist()
        turns: list[Turn] = []
        at: dict[str, int] = {}
        for number in rng.permutation(len(people) + chats).tolist():
            if number >= len(people):
                turns.append(Turn(_pick(rng, CHAT), _pick(rng, people), {"kind": "chat"}))
                continue
            own = number < self.buyers
            at[people[number]] = len(turns)
            media = (self.draw(shown[number], rng),)
            said = _pick(rng, medium.own if own else medium.catalogue)
            turns.append(Turn(said, people[number], {"kind": "fact" if own else "distractor"}, media))
        turns += [Turn(LATER, NARRATOR, {"kind": "chat", "writable": False})] * EVENINGS
        probes = []
        for number in rng.permutation(self.buyers).tolist():
            name, thing = people[number], self.objects[shown[number]]
            turns.append(Turn(question(name), NARRATOR, {"kind": "ask", "writable": False}))
            probes.append(Probe(len(turns), (at[name],), thing))
            turns.append(Turn(sentence(thing), NARRATOR, {"kind": "answer", "writable": False}))
        return Transcript(tuple(turns), tuple(probes), f"{self.name}-{seed}")

    def draw(self, thing: int, rng: np.random.Generator) -> Media:
        """Return a new picture or sound of the object with a number."""
        quality, which = divmod(thing, self.shapes)
        return MEDIA[self.medium].make(quality, which, self.noise, rng)


def question(name: str) -> str:
    """Return the turn that asks what somebody bought."""
    return f"What had {name} bought?"


def sentence(thing: str) -> str:
    """Return the turn that says it."""
    return f"It was a {thing}."


def _pick(rng: np.random.Generator, options: Any) -> str:
    return str(options[rng.integers(len(options))])

"""Picture stories: somebody shows an object early, and a late sentence says what it was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.transcript import IMAGE, Media, Probe, Transcript, Turn
from stm_rl.worlds.lexicon import PERSON

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (230, 210, 50)}
SHAPES = ("cross", "square", "triangle", "circle")
SIZE = 24
"""Pixels along each side of a picture."""
NARRATOR = "narrator"
OWN = ("Look, I bought this.", "This is what I bought.", "See what I bought today.")
CATALOGUE = ("This is only in the catalogue.", "I saw this in a catalogue.", "The catalogue shows this.")
CHAT = ("The weather is fine today.", "The train was late again.", "Let us have some tea.", "It is rather quiet here.")
LATER = "The others went on talking."
EVENINGS = 2
"""Turns between the last picture and the first question, so that no picture is still in a window of two turns."""


@dataclass(frozen=True)
class PictureWorld:
    """Generator of picture stories.

    Some people show a picture of what they bought, others one from a catalogue, which nobody asks about; some chat.
    At the end the narrator asks what each of the buyers bought, in any order, and says it: the object is in the picture
    alone, never in a text before.

    Attributes:
        turns: Turns in a story.
        buyers: People who show what they bought.
        browsers: People who show something from a catalogue.
        colours: Colours of objects, 2 to 4.
        shapes: Shapes of objects, 2 to 4.
        noise: Standard deviation of the noise on each channel of a pixel, in steps of 255.
        entities: ``train``, or ``heldout`` for people no training story contains.
    """

    turns: int = 17
    buyers: int = 3
    browsers: int = 2
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
        for name, value, most in (("colours", self.colours, len(COLOURS)), ("shapes", self.shapes, len(SHAPES))):
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
        return "picture-story"

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """The objects that may be shown, such as ``red square``."""
        return tuple(f"{colour} {shape}" for colour in list(COLOURS)[: self.colours] for shape in SHAPES[: self.shapes])

    def generate(self, seed: int) -> Transcript:
        """Return the story of ``seed``; the same seed always gives the same story."""
        rng = np.random.default_rng([seed, 0x91C])
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
            picture = Media(IMAGE, array=self.draw(shown[number], rng))
            kind = "fact" if own else "distractor"
            turns.append(Turn(_pick(rng, OWN if own else CATALOGUE), people[number], {"kind": kind}, (picture,)))
        turns += [Turn(LATER, NARRATOR, {"kind": "chat", "writable": False})] * EVENINGS
        probes = []
        for number in rng.permutation(self.buyers).tolist():
            name, thing = people[number], self.objects[shown[number]]
            turns.append(Turn(question(name), NARRATOR, {"kind": "ask", "writable": False}))
            probes.append(Probe(len(turns), (at[name],), thing))
            turns.append(Turn(sentence(thing), NARRATOR, {"kind": "answer", "writable": False}))
        return Transcript(tuple(turns), tuple(probes), f"{self.name}-{seed}")

    def draw(self, thing: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return a picture of the object with a number, shape ``(SIZE, SIZE, 3)``: somewhere, of some size, noisy."""
        colour, shape = divmod(thing, self.shapes)
        centre, radius = SIZE / 2 + rng.uniform(-4, 4, 2), rng.uniform(5, 7)
        y, x = (np.indices((SIZE, SIZE)) + 0.5 - centre[:, None, None]) / radius
        inside: dict[str, Any] = {
            "square": np.maximum(abs(x), abs(y)) < 0.9,
            "circle": x**2 + y**2 < 1,
            "triangle": (y < 0.9) & (2 * abs(x) < y + 1.1),
            "cross": (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
        }
        tint = np.array(list(COLOURS.values())[colour]) + rng.normal(0, 12, 3)
        pixels = np.where(inside[SHAPES[shape]][..., None], tint, rng.uniform(90, 130))
        return np.clip(pixels + rng.normal(0, self.noise, pixels.shape), 0, 255).astype(np.uint8)


def question(name: str) -> str:
    """Return the turn that asks what somebody bought."""
    return f"What had {name} bought?"


def sentence(thing: str) -> str:
    """Return the turn that says it."""
    return f"It was a {thing}."


def _pick(rng: np.random.Generator, options: Any) -> str:
    return str(options[rng.integers(len(options))])

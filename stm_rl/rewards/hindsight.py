"""What later text takes up from earlier text: a training signal for memory that needs no label and no model.

Looking back over a transcript, each turn *takes up* words of earlier turns. A memory that held those turns when they
were taken up held what mattered. Nothing but the text is looked at.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from math import log

import numpy as np

from stm_rl.errors import StmError
from stm_rl.features import content_words
from stm_rl.rewards.base import FloatArray, Step, Steps
from stm_rl.transcript import Transcript

Needs = list[dict[int, float]]
"""For each turn, the earlier turns it takes words from and how much."""
Uses = dict[int, list[tuple[int, float]]]
"""For each turn, the later steps at which it is taken up and how much, by ascending step."""


class Hindsight:
    """Pays for holding the turns that later turns take up.

    For each content word of a turn that was said before (where more than two speak, the speaker's name among them), the
    latest turn that held it is credited, and once more the latest turn of *another* speaker that did: what somebody
    else takes up was understood and matters (grounding; Clark and Brennan, 1991). A word counts by its rarity in the
    transcript, log(T / turns that hold it), over the root of the distance: the further back, the likelier that it is
    chance. Where more than two speak, whose threads interleave, it counts over the distance itself. Only turns that
    may be written are credited. Where a transcript puts questions to the memory (turns that may not be written), only
    their answers take up, each together with its question and however far back; words that no single turn holds are
    then looked for in turns that hang together (see :func:`linked`).

    Credit is scaled so that a memory that lost nothing would earn 1 a step on average. What the memory is left with at
    the end is credited, whatever the distances, with its share of all that was taken up; that weighs as much as ``end``
    times the steps of the transcript, or of one of ``longest`` steps if that is less.

    By default the future credit of a turn is paid when it is written, and taken back for what it supersedes or, should
    it be dropped before, for what was not yet due. That is potential-based shaping (Ng, Harada and Russell, 1999): for
    an agent with the discount ``gamma`` the best policy stays the same, but it learns at once what a write was worth.
    An agent with discount 0 learns from nothing else, with far less noise: whether a turn is expected to be worth more
    than what it supersedes.

    Args:
        end: Weight of what is held in the end, relative to what is held at every step.
        longest: Steps beyond which what is held in the end weighs no more.
        gamma: Discount of credit that is due later, 0 to 1.
        shaped: Pay when a turn is written; else when it is taken up.
        keep: How many transcripts to remember the credit of.
    """

    def __init__(
        self, end: float = 1.5, longest: int = 24, gamma: float = 0.98, shaped: bool = True, keep: int = 8192
    ) -> None:
        for name, value in (("end", end), ("longest", longest)):
            if not value >= 0:
                raise StmError(f"{name} is {value}; expected at least 0")
        if not 0 <= gamma <= 1:
            raise StmError(f"gamma is {gamma}; expected 0 to 1, the discount of the agent")
        self.end, self.longest, self.gamma, self.shaped, self.keep = end, longest, gamma, shaped, keep
        self._known: OrderedDict[int, tuple[Transcript, Uses]] = OrderedDict()

    def __call__(self, steps: Steps) -> FloatArray:
        """Return what each step earns."""
        return np.array([self._of(step) for step in steps], np.float64).reshape(len(steps))

    def _of(self, step: Step) -> float:
        uses = self._uses(step.transcript)
        if not self.shaped:
            return sum(value for turn in step.held for at, value in uses.get(turn, ()) if at == step.turn)
        before, held = set(step.before), set(step.held)
        return self._worth(uses, held - before, step.turn) - self._worth(uses, before - held, step.turn)

    def _worth(self, uses: Uses, turns: Iterable[int], step: int) -> float:
        """Return the credit of turns from ``step`` on, discounted to it."""
        due = (use for turn in turns for use in uses.get(turn, ()) if use[0] >= step)
        return sum(value * self.gamma ** (at - step) for at, value in due)

    def credit(self, transcript: Transcript) -> Uses:
        """Return when each turn is taken up and how much."""
        return uses_of(transcript, self.end * min(len(transcript) - 1, self.longest))

    def _uses(self, transcript: Transcript) -> Uses:
        known = self._known.get(id(transcript))
        if known is None:
            known = self._known[id(transcript)] = (transcript, self.credit(transcript))
            while len(self._known) > self.keep:
                self._known.popitem(last=False)
        return known[1]


def uses_of(transcript: Transcript, end: float) -> Uses:
    """Return when each turn is taken up and how much, as :class:`Hindsight` counts it.

    A turn is taken up at the step before the turn that does so: then it should be held.

    Args:
        transcript: The transcript.
        end: Credit for holding at the end all that was taken up.
    """
    power = 1.0 if several_speak(transcript) else 0.5
    uses: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    total: defaultdict[int, float] = defaultdict(float)
    for index, own in enumerate(needs_of(transcript)):
        for turn, value in own.items():
            chance = (index - turn) ** power if transcript.turns[index].writable else 1.0
            uses[turn].append((index - 1, value / chance))
            total[turn] += value
    steps = len(transcript) - 1
    scale = steps / sum(value for found in uses.values() for _, value in found) if uses else 0.0
    share = end / sum(total.values()) if uses else 0.0
    return {
        turn: [*((at, value * scale) for at, value in found), (steps - 1, total[turn] * share)]
        for turn, found in uses.items()
    }


def needs_of(transcript: Transcript) -> Needs:
    """Return what each turn of a transcript takes from which earlier turns."""
    turns = transcript.turns
    named = several_speak(transcript)
    words = [content_words(f"{turn.speaker} {turn.text}" if named else turn.text) for turn in turns]
    count = Counter(word for own in words for word in own)
    rarity = {word: log(len(turns) / number) for word, number in count.items()}
    asks = not all(turn.writable for turn in turns)
    said: defaultdict[str, list[int]] = defaultdict(list)
    needs: Needs = [{}]
    for index in range(1, len(turns)):
        if turns[index - 1].writable:
            for word in words[index - 1]:
                said[word].append(index - 1)
        target = words[index]
        if asks:
            asked = not turns[index].writable and not turns[index - 1].writable
            target = target | words[index - 1] if asked else frozenset()
        places = {word: said[word] for word in sorted(target) if said.get(word) and rarity[word] > 0}
        chosen = linked(places, words, rarity) if asks else {}
        own: defaultdict[int, float] = defaultdict(float)
        for word, found in places.items():
            latest = chosen.get(word, found[-1])
            own[latest] += rarity[word]
            other = latest
            if turns[latest].speaker == turns[index].speaker:
                other = next((turn for turn in reversed(found) if turns[turn].speaker != turns[index].speaker), -1)
            if other >= 0:
                own[other] += rarity[word]
        needs.append(dict(own))
    return needs


def several_speak(transcript: Transcript) -> bool:
    """Return whether more than two speak; questions and answers put to the memory do not count."""
    return len({turn.speaker for turn in transcript.turns if turn.writable}) > 2


def linked(places: Mapping[str, list[int]], words: list[frozenset[str]], rarity: Mapping[str, float]) -> dict[str, int]:
    """Return the turns that words of a question and its answer come from, if they hang together by a further word.

    "Where is the apple?" - "In the bath": no turn holds both, but "Mary got the apple" and "Mary went to the bath"
    share *Mary*. Among the further words that turns with the wanted ones hold, take the one whose turns hold most of
    them; among equals the one whose turns are latest.

    Args:
        places: The earlier turns that hold each wanted word, ascending.
        words: The words of each turn.
        rarity: What a word counts.
    """
    best: tuple[tuple[float, int], dict[str, int]] = (0.0, 0), {}
    for link in sorted(_further(places, words)):
        latest = {word: [turn for turn in found if link in words[turn]][-1:] for word, found in places.items()}
        chosen = {word: turn[0] for word, turn in latest.items() if turn}
        if len(set(chosen.values())) > 1:
            worth = round(sum(rarity[word] for word in chosen), 9), sum(chosen.values())
            best = max(best, (worth, chosen), key=lambda pair: pair[0])
    return best[1]


def _further(places: Mapping[str, list[int]], words: list[frozenset[str]]) -> Iterable[str]:
    return {link for found in places.values() for turn in found for link in words[turn]} - set(places)

"""Whether text that a model wrote fits the hidden state of a procedural world."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript, Turn
from stm_rl.worlds.lexicon import POOLS, Lexicon, Pool
from stm_rl.worlds.relation import StatedFact
from stm_rl.worlds.screenplay_templates import SCREENPLAY_POOLS

ALL_POOLS: Lexicon = {**POOLS, **SCREENPLAY_POOLS}
"""Pools of all worlds."""
TRUE_KINDS = ("fact", "message", "update")
"""Turns that change the state; hedges and gossip do not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a text gets right and wrong in place of a turn.

    Attributes:
        needed: Number of facts that the true turn depends on; 0 unless it is an answer.
        right: Share of these whose value the text names; 0 if there are none.
        wrong: Other values of their pools that the text names, in the order of their pools.
        stale: Those of ``wrong`` that were once true and were superseded.
        contradictions: ``(fact id, value)`` for every fact whose key the text names together with a value of the
            fact's pool that is not its value.
    """

    needed: int = 0
    right: float = 0.0
    wrong: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    contradictions: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _State:
    """What is true before a turn: facts by id, and the values each had before."""

    now: dict[str, StatedFact]
    before: dict[str, set[str]]


def judge(transcript: Transcript, turn_index: int, text: str, lexicon: Lexicon = ALL_POOLS) -> Verdict:
    """Judge ``text`` in place of the turn at ``turn_index`` of a procedural transcript.

    Names count where they stand as whole words, in capital or small letters. What the cue (the turn
    before) or the true turn itself names is never held against the text.

    Args:
        transcript: A transcript of a procedural world.
        turn_index: Index of the turn that the text replaces.
        text: What the model wrote.
        lexicon: The lexicon the transcript was generated with; by default that of all worlds. A pool that is not in
            it holds the values that the transcript itself states.
    """
    if not 0 <= turn_index < len(transcript):
        raise StmError(f"there is no turn {turn_index}; {transcript.id} has turns 0 to {len(transcript) - 1}")
    turn = transcript.turns[turn_index]
    if "kind" not in turn.meta:
        raise StmError(f"{transcript.id or 'the transcript'} has no hidden state; expected one of a procedural world")
    lexicon = _completed(lexicon, transcript)
    words = _Words(text, lexicon)
    state = _fold(transcript.turns[:turn_index])
    facts: tuple[StatedFact, ...] = turn.meta.get("facts", ())
    contradictions = _contradictions(words, state, facts)
    if turn.meta["kind"] != "answer" or not facts:
        return Verdict(contradictions=contradictions)
    cue = _Words(transcript.turns[turn_index - 1].text if turn_index else "", lexicon)
    values = {value for _, value, _ in facts}
    keys = {_key(fact) for fact in facts}
    wrong: list[str] = []
    stale: list[str] = []
    for identity, _, pool in facts:
        for value in words.named(pool):
            if value in values | keys or value in cue.named(pool):
                continue
            if value in state.before.get(identity, ()) and value not in stale:
                stale.append(value)
            if value not in wrong:
                wrong.append(value)
    right = sum(value in words.named(pool) for _, value, pool in facts) / len(facts)
    return Verdict(len(facts), right, tuple(wrong), tuple(stale), contradictions)


def _completed(lexicon: Lexicon, transcript: Transcript) -> Lexicon:
    """Return the lexicon with the pools it lacks, made of the values that the transcript states."""
    stated: dict[str, list[str]] = {}
    for turn in transcript.turns:
        for _, value, pool in turn.meta.get("facts", ()):
            if pool not in lexicon:
                stated.setdefault(pool, []).append(value)
    return {**lexicon, **{name: Pool(tuple(dict.fromkeys(values)), ()) for name, values in stated.items()}}


def _key(fact: StatedFact) -> str:
    return fact[0].partition(":")[2]


def _fold(turns: tuple[Turn, ...]) -> _State:
    """Return what is true after ``turns``."""
    state = _State({}, {})
    latest: dict[str, str] = {}
    for turn in turns:
        kind = turn.meta["kind"]
        if kind == "cancel":
            for identity in turn.meta["keys"]:
                state.now.pop(identity, None)
        if kind not in (*TRUE_KINDS, "hedge"):
            continue
        for fact in turn.meta.get("facts", ()):
            identity, value, _ = fact
            if identity in latest:
                state.before.setdefault(identity, set()).add(latest[identity])
            latest[identity] = value
            if kind in TRUE_KINDS:
                state.now[identity] = fact
    return state


def _contradictions(words: _Words, state: _State, stated: tuple[StatedFact, ...]) -> tuple[tuple[str, str], ...]:
    """Return the facts of ``state`` that the text contradicts; what the true turn has ``stated`` is allowed."""
    named_keys = {key for key in map(_key, state.now.values()) if words.names(key)}
    allowed: dict[tuple[str, str], set[str]] = {}  # by key and pool: two relations may share both
    for fact in state.now.values():
        allowed.setdefault((_key(fact), fact[2]), set()).add(fact[1])
    said = {value for _, value, _ in stated} | {_key(fact) for fact in stated}
    return tuple(
        (fact[0], value)
        for fact in state.now.values()
        if _key(fact) in named_keys
        for value in words.named(fact[2])
        if value not in allowed[_key(fact), fact[2]] | said | {_key(fact)}
    )


class _Words:
    """The names in a text, by pool."""

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text, self.lexicon = text, lexicon
        self._named: dict[str, tuple[str, ...]] = {}

    def named(self, pool: str) -> tuple[str, ...]:
        """Return the entities of ``pool`` that the text names, in the spelling of the pool."""
        if pool not in self._named:
            pattern, spelling = _pattern(self.lexicon[pool])
            found = dict.fromkeys(spelling[match.lower()] for match in pattern.findall(self.text))
            self._named[pool] = tuple(found)
        return self._named[pool]

    def names(self, word: str) -> bool:
        """Return whether the text names ``word``."""
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self.text, re.IGNORECASE) is not None


@lru_cache(maxsize=256)
def _pattern(pool: Pool) -> tuple[re.Pattern[str], dict[str, str]]:
    spelling = {name.lower(): name for name in (*pool.train, *pool.heldout)}
    names = "|".join(re.escape(name) for name in sorted(spelling, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE), spelling

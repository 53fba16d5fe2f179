"""Turns continued with and without memory: an agent plays, the language model writes both texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from stm_rl.comparison.continuation import WITH, WITHOUT, Continuation
from stm_rl.comparison.measures import Measures
from stm_rl.comparison.sampling import sample
from stm_rl.contexts import Contexts
from stm_rl.encoders import sentence_encoder
from stm_rl.features import TextEncoder
from stm_rl.lm.prompt import line, target
from stm_rl.prepare import SILENCE, Asked, Prepared
from stm_rl.transcript import Transcript, Turn
from stm_rl_agents.base import Agent
from stm_rl_agents.language.states import state_of
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.vector import MemoryVectorEnv


@dataclass(frozen=True, slots=True)
class Moment:
    """One turn that is to be written.

    Attributes:
        item: The transcript.
        turn: The turn that is to be written.
        reads: What the agent read: indices of turns, or lines that stand for turns.
        decision: What the agent did with its memory.
        state: The episode when it decided.
    """

    item: Prepared
    turn: int
    reads: list[int | str]
    decision: dict[str, Any]
    state: str

    @property
    def asked(self) -> Asked:
        """What a preparer is asked."""
        return self.item, self.turn, self.reads


def chosen_turns(transcript: Transcript, episodes: Episodes) -> set[int]:
    """Return the turns of a transcript that are continued.

    Those that the model writes in ``generate`` mode and those that are known to depend on earlier ones, if there is
    anything to remember in front of them: as many turns as the window has come before.
    """
    authored = np.flatnonzero(episodes.settings.authored(transcript)).tolist()
    chosen = {*authored, *(probe.turn for probe in transcript.probes)}
    return {turn for turn in chosen if turn > episodes.settings.window}


def moments(
    agent: Agent, env: MemoryVectorEnv, indices: Sequence[int], on_episodes: Callable[[int], None] = lambda count: None
) -> list[Moment]:
    """Play transcripts and return every turn that is to be written, with what the agent read for it.

    The true turns go on whatever the model would write, so that both texts of a turn have the same history.

    Args:
        agent: Who plays; it is started here.
        env: In ``teacher-forced`` mode, not resetting itself.
        indices: Transcripts to play.
        on_episodes: Called with the number of episodes just finished.
    """
    agent.start(env)
    episodes = env.episodes
    found: dict[int, list[Moment]] = {}
    for first, observation in env.batches(indices, on_episodes):
        playing = np.flatnonzero(~env.resting).tolist()
        turns = {row: chosen_turns(episodes.current[row].transcript, episodes) for row in playing}
        while not env.resting.all():
            wanted = [r for r in np.flatnonzero(~env.resting).tolist() if int(episodes.step_index[r]) + 1 in turns[r]]
            before = {row: (state_of(episodes, row), episodes.held(row)) for row in wanted}
            actions = agent.act(observation, env.action_masks())
            decided = {row: _decision(episodes, row, actions[row], before[row][1]) for row in wanted}
            at = {row: (episodes.current[row], int(episodes.step_index[row])) for row in wanted}
            observation, _, _, _, infos = env.step(actions)
            for row in wanted:
                item, step = at[row]
                notes = episodes.notes[row]
                reads: list[int | str] = [notes.get(turn, turn) for turn in infos["read_turns"].get(row, [])]
                moment = Moment(item, step + 1, reads, decided[row], before[row][0])
                found.setdefault(first + row, []).append(moment)
    return [moment for number in sorted(found) for moment in found[number]]


def _decision(episodes: Episodes, row: int, action: Any, before: Sequence[str | None]) -> dict[str, Any]:
    """Return what an agent did; what it forgot shows in the slots, which it emptied while it acted."""
    write, *reads = action.tolist()
    now = episodes.held(row)
    forgotten = [slot for slot, held in enumerate(before, 1) if held is not None and now[slot - 1] is None]
    text = episodes.notes[row].get(int(episodes.step_index[row]), "") if write else ""
    return {"write": write, "reads": sorted({slot for slot in reads if slot}), "forget": forgotten, "text": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How texts are written.

    Attributes:
        kind: Of the transcripts; see :data:`stm_rl.comparison.continuation.KINDS`.
        env: Environment id.
        seed: Seeds draws.
        temperature: Of draws; None: the likeliest text.
        encoder: Embeds texts for the measure of relevance; None: the embedded model's embedding.
    """

    kind: str
    env: str
    seed: int = 0
    temperature: float | None = None
    encoder: TextEncoder | None = None


def continuations(agent_name: str, env: MemoryVectorEnv, met: Sequence[Moment], how: Writing) -> list[Continuation]:
    """Return both texts of each turn, and what the measures say of them.

    Args:
        agent_name: Who decided.
        env: Where :func:`moments` were found; its language model writes and judges.
        met: The turns.
        how: How to write.
    """
    if not met:
        return []
    episodes = env.episodes
    lm = episodes.prepare.scorer.lm.id
    pairs = _texts(episodes, met, how)
    found = []
    for moment, (text, plain) in zip(met, pairs, strict=True):
        item, turn = moment.item, moment.turn
        lines = item.lines
        found.append(
            Continuation(
                kind=how.kind,
                env=how.env,
                transcript=item.transcript.id,
                turn=turn,
                speaker=item.transcript.turns[turn].speaker,
                before=lines[:turn],
                window=lines[max(0, turn - episodes.settings.window) : turn],
                reads=[one if isinstance(one, str) else lines[one] for one in moment.reads],
                truth=item.targets[turn].strip(),
                with_memory=text,
                without_memory=plain,
                agent=agent_name,
                lm=lm,
                seed=how.seed,
                decision=moment.decision,
                state=moment.state,
            )
        )
    return _measured(episodes, met, found, how)


def _texts(episodes: Episodes, met: Sequence[Moment], how: Writing) -> list[tuple[str, str]]:
    """Return what is written with the reads and without."""
    prepare, length = episodes.prepare, episodes.settings.max_new_tokens
    asked = [moment.asked for moment in met]
    if how.temperature is None:
        return prepare.write(asked, max_new_tokens=length)
    contexts = Contexts(prepare.prompt, prepare.scorer.lm)

    def context(moment: Moment, reads: Sequence[int | str]) -> str:
        lines, turn = moment.item.lines, moment.turn
        quoted = [one if isinstance(one, str) else lines[one] for one in reads]
        window = lines[max(0, turn - prepare.window) : turn]
        return contexts(quoted, window, moment.item.transcript.turns[turn].speaker, "", length)[0]

    texts = [context(moment, moment.reads) for moment in met] + [context(moment, ()) for moment in met]
    seeds = [_seed(how.seed, moment) for moment in met] * 2
    written = [one or SILENCE for one in sample(prepare.scorer.lm, texts, seeds, how.temperature, length)]
    return list(zip(written[: len(met)], written[len(met) :], strict=True))


def _seed(seed: int, moment: Moment) -> int:
    """Return the seed of a turn: the same for both of its texts, whatever else is compared."""
    named = f"{seed} {moment.item.transcript.id} {moment.turn}".encode()
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "little")


def _measured(
    episodes: Episodes, met: Sequence[Moment], found: Sequence[Continuation], how: Writing
) -> list[Continuation]:
    """Return the continuations with what the measures say of both sides."""
    prepare = episodes.prepare
    measures = Measures(prepare.scorer, how.encoder or sentence_encoder("tiny"))
    # For both texts the judge sees the whole true history, or what fits of it.
    histories = [prepare.context(moment.item, moment.turn, start=0) for moment in met]
    truths = [moment.item.targets[moment.turn] for moment in met]
    results: list[dict[str, dict[str, float]]] = [{} for _ in found]
    for side in (WITH, WITHOUT):
        texts = [one.text(side) for one in found]
        seen = [prepare.context(m.item, m.turn, m.reads if side == WITH else ()) for m in met]
        likely = prepare.scorer.score(seen, truths).tolist()
        cues = [one.before[-1] for one in found]
        written = [Turn(text, one.speaker) for one, text in zip(found, texts, strict=True)]
        relevance = measures.relevance(list(map(line, written)), cues)
        fit = measures.fit(histories, list(map(target, written)))
        for row, (moment, text) in enumerate(zip(met, texts, strict=True)):
            results[row][side] = {
                **measures.of_text(moment.item.transcript, moment.turn, text),
                "relevance": relevance[row],
                "fit": fit[row],
                "true_likelihood": likely[row],
            }
    rounded = [{side: {n: round(v, 4) for n, v in of.items()} for side, of in one.items()} for one in results]
    return [replace(one, measures=values) for one, values in zip(found, rounded, strict=True)]

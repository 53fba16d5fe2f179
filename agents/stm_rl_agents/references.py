"""References that know more than an agent may: the hindsight oracle and the informed agent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm_rl.errors import StmError
from stm_rl.memory import EMPTY
from stm_rl.prepare import Prepared
from stm_rl.worlds.dialogue import ASKED_WITH_PROBABILITY
from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

Needs = dict[int, list[int]]
"""For each turn worth keeping, the steps at which it will be needed, ascending."""


class _Privileged(Agent):
    """An agent that looks into the environment."""

    _episodes: Episodes | None = None

    def start(self, env: MemoryVectorEnv) -> None:
        """Keep the environment's episodes."""
        self._episodes = env.episodes

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return one action for each episode."""
        episodes = self._episodes
        if episodes is None:
            raise StmError(f"{self.name} was not started; call start(env) first")
        actions = np.zeros((episodes.n, 1 + reads_of(observation, action_masks)), np.int64)
        for row in range(episodes.n):
            step = int(episodes.step_index[row])
            if step <= episodes.last_step[row]:
                self._decide(episodes, row, step, actions[row])
        return actions

    def _decide(self, episodes: Episodes, row: int, step: int, action: Actions) -> None:
        """Fill in the action of one episode."""
        raise NotImplementedError


def put_reads(action: Actions, held: list[int], wanted: list[int]) -> None:
    """Read the ``wanted`` turns that are ``held``, as many as there are reads."""
    slots = [held.index(turn) + 1 for turn in wanted if turn in held][: len(action) - 1]
    action[1 : 1 + len(slots)] = slots


class Oracle(_Privileged):
    """Knows the future: keeps what will be needed soonest (Belady, 1966) and reads what is needed now.

    Where a transcript has probes it acts on these true dependencies. Elsewhere it takes its needs
    from the language model: a past turn is needed at a step if reading it alone gains at least
    ``threshold`` nats there.

    Args:
        threshold: Least gain, in nats, for a dependency found in the scores.
        lookback: Most turns back that a dependency is looked for.
    """

    name = "oracle"

    def __init__(self, threshold: float = 0.5, lookback: int = 64) -> None:
        self.threshold = threshold
        self.lookback = lookback
        self._needs: dict[int, tuple[Prepared, Needs]] = {}

    def start(self, env: MemoryVectorEnv) -> None:
        """Keep the environment's episodes and forget those of another."""
        super().start(env)
        self._needs.clear()

    def _decide(self, episodes: Episodes, row: int, step: int, action: Actions) -> None:
        needs = self._needs_of(episodes, row)
        held: list[int] = episodes.memory.turn[row].tolist()

        def next_need(turn: int) -> float:
            return next((at for at in needs.get(turn, ()) if at >= step), np.inf)

        if next_need(step) < np.inf:
            slot = int(np.argmax([np.inf if turn == EMPTY else next_need(turn) for turn in held]))
            if held[slot] == EMPTY or next_need(held[slot]) > next_need(step):
                action[0] = slot + 1
                held[slot] = step
        put_reads(action, held, [turn for turn, steps in needs.items() if step in steps])

    def _needs_of(self, episodes: Episodes, row: int) -> Needs:
        item = episodes.current[row]
        known = self._needs.get(id(item))
        if known is None or known[0] is not item:
            if item.probes:
                needs = self._from_probes(episodes, item)
            else:
                needs = self._from_scores(episodes, item)
            known = self._needs[id(item)] = (item, needs)
        return known[1]

    def _from_probes(self, episodes: Episodes, item: Prepared) -> Needs:
        needs: Needs = {}
        for probe in item.transcript.probes:
            step = probe.turn - 1
            for turn in probe.evidence:
                if turn <= step - episodes.settings.window:
                    needs.setdefault(turn, []).append(step)
        return needs

    def _from_scores(self, episodes: Episodes, item: Prepared) -> Needs:
        window = episodes.settings.window
        pairs = [
            (turn, step)
            for step in range(window, len(item) - 1)
            for turn in range(max(0, step - window + 1 - self.lookback), step - window + 1)
        ]
        gains = episodes.prepare.gains([(item, step + 1, (turn,)) for turn, step in pairs])
        by_step: dict[int, list[tuple[float, int]]] = {}
        for (turn, step), gain in zip(pairs, gains.tolist(), strict=True):
            if gain >= self.threshold:
                by_step.setdefault(step, []).append((gain, turn))
        needs: Needs = {}
        for step, found in by_step.items():
            for _, turn in sorted(found, reverse=True)[:1]:
                needs.setdefault(turn, []).append(step)
        return needs


@dataclass(slots=True)
class _Plan:
    turn: int
    worth: float


class Informed(_Privileged):
    """Knows the rules of the procedural world but not the future: what a policy could attain.

    It sees what kind of turn each turn so far was and which facts it was about. It keeps facts that
    can still be asked about, likelier ones first and, among equals, those mentioned earlier (whose
    question is due sooner), drops what was answered, changed or called off, and reads when asked.
    """

    name = "informed"

    def __init__(self) -> None:
        self._plans: dict[int, dict[str, _Plan]] = {}

    def _decide(self, episodes: Episodes, row: int, step: int, action: Actions) -> None:
        turn = episodes.current[row].transcript.turns[step]
        if "keys" not in turn.meta:
            raise StmError("the informed agent needs transcripts of a procedural world")
        plans = self._plans[row] = {} if step == 0 else self._plans[row]
        kind, keys = turn.meta["kind"], turn.meta["keys"]
        held: list[int] = episodes.memory.turn[row].tolist()
        if kind in ("fact", "message", "hedge", "update"):
            old = plans.get(keys[0])
            worth = ASKED_WITH_PROBABILITY["fact" if kind == "update" else kind]
            plans[keys[0]] = _Plan(step, worth)
            worths = {plan.turn: plan.worth - 1e-3 * plan.turn for plan in plans.values()}
            slot = held.index(old.turn) if old and old.turn in held else None
            if slot is None:
                slot = int(np.argmin([worths.get(content, -1.0) for content in held]))
            if worths.get(held[slot], -1.0) < worth - 1e-3 * step or (old and held[slot] == old.turn):
                action[0] = slot + 1
                held[slot] = step
        elif kind == "cancel":
            plans.pop(keys[0], None)
        elif kind == "ask":
            put_reads(action, held, [plans[key].turn for key in keys if key in plans])
            for key in keys:
                plans.pop(key, None)

"""Phases of play: a language model plays some turns of episodes that go on from phase to phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.language.chat import is_short, prompt_ids, prompt_of, read_decision
from stm_rl_agents.language.tools import Message
from stm_rl_envs.episodes import StepResult
from stm_rl_envs.vector import MemoryVectorEnv

Answers = tuple[list[list[int]], list[list[float]] | None]
"""Tokens that a model wrote, and their log-probabilities if it does not say them itself."""


@dataclass(frozen=True, slots=True)
class Phase:
    """``t`` turns of ``n`` episodes; lists hold turn after turn, of all episodes each.

    Attributes:
        prompts: What the model was shown, ``t * n``.
        prompt_ids: Their tokens.
        completion_ids: The tokens of its decisions.
        log_probs: Of those, nats, as the sampler had them; empty if the model itself drew them.
        rewards: Nats, shape ``(t, n)``.
        ends: Whether the episode ended with the turn, shape ``(t, n)``.
        malformed: Whether the decision had calls that were left out, shape ``(t, n)``.
        returns: Sums of rewards of the episodes that ended.
        last: Tokens of the prompts after the last turn, ``n``.
        cut: Tokens of the prompts at which a time limit cut episodes off, by turn and episode.
    """

    prompts: list[list[Message]]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    log_probs: list[list[float]]
    rewards: NDArray[np.float64]
    ends: NDArray[np.bool_]
    malformed: NDArray[np.bool_]
    returns: list[float]
    last: list[list[int]]
    cut: dict[tuple[int, int], list[int]]


class Player:
    """Plays episodes with a language model; :meth:`begin` comes first.

    Args:
        env: The episodes.
        tokenizer: Of the model.
        generate: Returns the model's answers to prompts, given as tokens.
    """

    def __init__(self, env: MemoryVectorEnv, tokenizer: Any, generate: Callable[[list[list[int]]], Answers]) -> None:
        self.env, self.tokenizer, self.generate = env, tokenizer, generate
        self.sums = np.zeros(env.num_envs)

    def begin(self, entropy: list[int]) -> None:
        """Begin all episodes anew.

        Args:
            entropy: Seeds them.
        """
        self.env.reset(seed=np.random.SeedSequence(entropy).generate_state(self.env.num_envs).tolist())
        self.sums[:] = 0

    def _prompts(self, rows: list[int]) -> tuple[list[list[Message]], list[list[int]]]:
        """Return what the model is shown in some of the episodes, and its tokens."""
        prompts = [prompt_of(self.env.episodes, row, is_short(self.tokenizer)) for row in rows]
        return prompts, prompt_ids(self.tokenizer, prompts)

    def play(self, turns: int) -> Phase:
        """Play some turns of every episode; those that end begin anew."""
        episodes, rows = self.env.episodes, list(range(self.env.num_envs))
        slots, reads = episodes.settings.slots, episodes.settings.reads
        prompts: list[list[Message]] = []
        before: list[list[int]] = []
        written: list[list[int]] = []
        log_probs: list[list[float]] = []
        cut: dict[tuple[int, int], list[int]] = {}
        malformed: list[list[bool]] = []
        pending: list[Callable[[], StepResult]] = []
        for turn in range(turns):
            shown, asked = self._prompts(rows)
            answers, drawn = self.generate(asked)
            decisions = [
                read_decision(self.tokenizer, ids, answer, slots, reads)
                for ids, answer in zip(asked, answers, strict=True)
            ]
            actions = np.stack([decision.apply(episodes, row) for row, decision in enumerate(decisions)])
            pending.append(episodes.begin(np.array(rows), actions))
            over = episodes.step_index > episodes.last_step
            unfinished = [
                row
                for row in np.flatnonzero(over).tolist()
                if episodes.step_index[row] + 1 < len(episodes.current[row])
            ]
            cut |= {(turn, row): ids for row, ids in zip(unfinished, self._prompts(unfinished)[1], strict=True)}
            if over.any():
                self.env.reset(options={"reset_mask": over})
            prompts += shown
            before += asked
            written += answers
            log_probs += drawn or []
            malformed.append([bool(decision.malformed) for decision in decisions])
        results = [finish() for finish in pending]  # only now does anything wait for the scores
        rewards = np.stack([result.reward for result in results])
        ends = np.stack([result.terminated | result.truncated for result in results])
        returns = self._returns(rewards, ends)
        last = self._prompts(rows)[1]
        return Phase(prompts, before, written, log_probs, rewards, ends, np.array(malformed), returns, last, cut)

    def _returns(self, rewards: NDArray[np.float64], ends: NDArray[np.bool_]) -> list[float]:
        """Return the sums of rewards of the episodes that ended, some of which began in an earlier phase."""
        found: list[float] = []
        for reward, ended in zip(rewards, ends, strict=True):
            self.sums += reward
            found += self.sums[ended].tolist()
            self.sums[ended] = 0
        return found

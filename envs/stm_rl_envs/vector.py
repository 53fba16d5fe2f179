"""Many episodes at once, with one batched language-model call a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.lm import EMBEDDED, LanguageModel, PromptFormat, ScoringEngine, as_engine
from stm_rl.rewards import Reward, Term
from stm_rl.transcript import Transcript
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.memory_env import draw_transcript
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.view import Observation

Array = NDArray[Any]


class MemoryVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """``num_envs`` copies of :class:`~stm_rl_envs.memory_env.MemoryEnv` stepped together.

    The same seeds give the same trajectories as the scalar form. Episodes that end begin anew in
    the same step (``AutoresetMode.SAME_STEP``: ``infos["final_obs"]`` holds the last observation)
    or, with ``autoreset=False``, rest until ``reset`` with ``options={"reset_mask": ...}``.

    Attributes:
        resting: Which environments rest, shape ``(num_envs,)``.
    """

    def __init__(
        self,
        num_envs: int,
        transcripts: Sequence[Transcript],
        *,
        settings: MemorySettings | None = None,
        lm: str | LanguageModel | ScoringEngine | None = EMBEDDED,
        reward: Reward | Mapping[str | Term, float] | Sequence[str] | None = None,
        encoder: TextEncoder | str | None = None,
        prompt: PromptFormat | None = None,
        autoreset: bool = True,
    ) -> None:
        """Make the environments; see :class:`~stm_rl_envs.memory_env.MemoryEnv` for the arguments."""
        if num_envs < 1:
            raise StmError(f"num_envs is {num_envs}; expected at least 1")
        self.num_envs = num_envs
        self.episodes = Episodes(transcripts, as_engine(lm), num_envs, settings, reward, encoder, prompt)
        self.single_observation_space = self.episodes.observation_space()
        self.single_action_space = self.episodes.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset = autoreset
        mode = AutoresetMode.SAME_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self.resting = np.ones(num_envs, bool)
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: One seed (environment ``i`` gets ``seed + i``) or one for each environment.
            options: ``reset_mask``, shape ``(num_envs,)``: which environments to reset;
                ``transcripts``: the index of the transcript of each environment that is reset.
        """
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if value is None else int(value) for value in seed]
        if len(seeds) != self.num_envs:
            raise StmError(f"{len(seeds)} seeds were given for {self.num_envs} environments; expected as many")
        for row, value in enumerate(seeds):
            if value is not None:
                self._generators[row] = seeding.np_random(value)[0]
        options = options or {}
        rows = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool)))
        chosen = options.get("transcripts")
        picks = [{"transcript": index} for index in chosen] if chosen is not None else [None] * len(rows)
        if len(picks) != len(rows):
            raise StmError(f"{len(picks)} transcripts were given for {len(rows)} environments; expected as many")
        self._start(rows, picks)
        return self.episodes.observe(), {}

    def batches(
        self, indices: Sequence[int], on_episodes: Callable[[int], None] = lambda count: None
    ) -> Iterator[tuple[int, Observation]]:
        """Begin transcripts once each, as many together as there are environments; the others rest.

        Every batch is to be played until all environments rest::

            for first, observation in env.batches(range(100)):
                while not env.resting.all():
                    observation, *_ = env.step(agent.act(observation, env.action_masks()))

        Args:
            indices: Indices of the transcripts.
            on_episodes: Called with the number of episodes just finished, for a progress bar.

        Yields:
            How many transcripts the batches before had, and the first observation. Environment ``i`` plays transcript
            ``indices[first + i]``.

        Raises:
            StmError: The environment resets itself, or a batch was left before its end.
        """
        if self.autoreset:
            raise StmError("the environment resets itself; make it with autoreset=False to play transcripts once each")
        self.resting[:] = True
        for first in range(0, len(indices), self.num_envs):
            chunk = list(indices[first : first + self.num_envs])
            mask = np.arange(self.num_envs) < len(chunk)
            observation, _ = self.reset(options={"reset_mask": mask, "transcripts": chunk})
            yield first, observation
            if not self.resting.all():
                left = int((~self.resting).sum())
                raise StmError(f"{left} episodes are under way; step until all environments rest before the next batch")
            on_episodes(len(chunk))

    def _start(self, rows: NDArray[np.int64], picks: Sequence[dict[str, Any] | None]) -> None:
        transcripts = self.episodes.prepare.transcripts
        indices = [
            draw_transcript(self._generators[row], transcripts, pick)
            for row, pick in zip(rows.tolist(), picks, strict=True)
        ]
        self.episodes.start(rows, indices)
        self.resting[rows] = False

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment that is not resting.

        Returns:
            Observations, rewards, terminated, truncated (a leading axis of ``num_envs`` each) and
            infos: arrays ``coherence_gain``, ``writes``, ``reads`` (their number), ``left_out`` (turns that did not fit
            into the model's context), ``evidence_needed``, ``evidence_held`` and ``reward/<term>``; and by environment
            ``read_turns`` (lists of turns) and ``written`` (texts the model wrote, in ``generate`` mode).
        """
        rows = np.flatnonzero(~self.resting)
        if not len(rows):
            raise StmError("every environment rests; call reset() first")
        actions = np.asarray(actions, np.int64)
        if len(actions) != self.num_envs:
            raise StmError(f"{len(actions)} actions were given for {self.num_envs} environments; expected as many")
        finish = self.episodes.begin(rows, actions[rows])  # the model scores while the rest goes on
        over = rows[self.episodes.step_index[rows] > self.episodes.last_step[rows]]
        infos: dict[str, Any] = {}
        if len(over) and self.autoreset:
            last = self.episodes.observe(over)
            final = np.full(self.num_envs, None, dtype=object)
            for number, row in enumerate(over.tolist()):
                final[row] = {name: value[number] for name, value in last.items()}
            infos |= {"final_obs": final, "_final_obs": np.isin(np.arange(self.num_envs), over)}
            self._start(over, [None] * len(over))
        self.resting[over] = not self.autoreset
        observation = self.episodes.observe()
        result = finish()

        def spread(values: Array) -> Array:
            full = np.zeros(self.num_envs, values.dtype)
            full[rows] = values
            return full

        infos |= {
            "coherence_gain": spread(result.gain),
            "writes": spread(result.writes),
            "reads": spread(np.array([len(turns) for turns in result.reads], np.int64)),
            "left_out": spread(result.left_out),
            "evidence_needed": spread(result.needed),
            "evidence_held": spread(result.held),
        }
        infos |= {f"reward/{name}": spread(value) for name, value in result.terms.items()}
        infos["written"] = {row: text for row, text in zip(rows.tolist(), result.texts, strict=True) if text}
        infos["read_turns"] = dict(zip(rows.tolist(), result.reads, strict=True))
        return observation, spread(result.reward), spread(result.terminated), spread(result.truncated), infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal, shape ``(num_envs, (1 + R) * (K + 1))``."""
        return self.episodes.action_masks()

"""The environment: one transcript, one memory, one agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.lm import EMBEDDED, LanguageModel, PromptFormat, ScoringEngine, as_engine
from stm_rl.memory import EMPTY
from stm_rl.rewards import Reward, Term
from stm_rl.transcript import Transcript
from stm_rl_envs.episodes import Episodes, StepResult
from stm_rl_envs.render import render_step
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.view import Observation


class MemoryEnv(gym.Env[Observation, NDArray[np.int64]]):
    """A transcript streamed turn by turn to an agent with a small memory.

    Description:
        At each step a turn arrives. The agent may write it to one of ``K`` slots, superseding what
        the slot held, and may read up to ``R`` slots back in front of a language model that sees
        nothing else but a window of the last turns. The model then scores the turn that really
        comes next.

    Action space:
        ``MultiDiscrete([K + 1] * (1 + R))``. Entry 0 writes the current turn: 0 leaves it out, i puts
        it into slot i. The other entries read: 0 reads nothing, i reads slot i (after the write).
        ``action_masks()`` leaves out reads of free slots, which read nothing.

    Observation space:
        A ``Dict`` of float32 boxes: ``turn (d,)`` and ``window (d,)`` are encoded texts, ``slots (K, d)``
        what the memory holds, ``slot_features (K, f)`` and ``globals (g,)`` plain features
        (:data:`~stm_rl_envs.episodes.SLOT_FEATURES`, :data:`~stm_rl_envs.episodes.GLOBAL_FEATURES`).

    Reward:
        log p(next turn | reads, window) - log p(next turn | window) in nats (the coherence gain), minus
        0.01 for a write and 0.02 for each turn put in front of the model. ``info["reward/<term>"]``
        holds each term. Without any write the gain is exactly 0.

    Termination:
        The transcript has ended. Truncation: after ``max_steps`` steps, if given.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": ["ansi"],
        "render_fps": 1,
    }

    def __init__(
        self,
        transcripts: Sequence[Transcript],
        *,
        settings: MemorySettings | None = None,
        lm: str | LanguageModel | ScoringEngine | None = EMBEDDED,
        reward: Reward | Mapping[str | Term, float] | Sequence[str] | None = None,
        encoder: TextEncoder | str | None = None,
        prompt: PromptFormat | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make an environment over transcripts.

        Args:
            transcripts: Where episodes come from; a lazy sequence will do.
            settings: Size of memory, window and reads.
            lm: The language model: a name for :meth:`stm_rl.lm.CausalLM.load`, a model or an engine; ``None`` for
                rewards that need none, such as ``{"recall": 1.0}``.
            reward: The reward, the weights of its terms, or texts such as ``coherence=1.0``; see
                :class:`stm_rl.rewards.Reward`.
            encoder: Encodes turns for the observation: an encoder, or names such as ``words+minilm``
                (:func:`stm_rl.encoders.named_encoder`).
            prompt: Layout of the contexts given to the model.
            render_mode: ``ansi`` or ``None``.
        """
        if render_mode not in (None, "ansi"):
            raise StmError(f"render_mode is {render_mode!r}; expected 'ansi' or none")
        self.episodes = Episodes(transcripts, as_engine(lm), 1, settings, reward, encoder, prompt)
        self.observation_space = self.episodes.observation_space()  # type: ignore[assignment]
        self.action_space = self.episodes.action_space()
        self.render_mode = render_mode
        self._last: StepResult | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds the choice of transcripts.
            options: ``{"transcript": i}`` plays the transcript with index ``i``.

        Returns:
            The observation and the info; see :meth:`step`.
        """
        super().reset(seed=seed)
        index = draw_transcript(self.np_random, self.episodes.prepare.transcripts, options)
        self.episodes.start(np.zeros(1, np.int64), [index])
        self._last = None
        return self._observation(), self._info()

    def step(self, action: NDArray[np.int64] | Sequence[int]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Write, read, and score the next turn.

        Args:
            action: One write and ``R`` reads; see the class.

        Returns:
            Observation, reward, terminated, truncated and info. Info holds the texts (``turn``,
            ``speaker``, ``window``, ``memory``), ``coherence_gain`` in nats, ``reward/<term>``, ``reads`` (the turns
            put in front of the model), ``left_out`` (how many turns of reads and window did not fit into the model's
            context; reads go first, oldest first), ``written`` (the turn, if the model wrote it) and, only for
            references that may look ahead, ``oracle`` (``evidence``: the turns outside the window that the next turn
            depends on).

        Raises:
            StmError: The action is out of range, or no episode is under way.
        """
        if not self.episodes.current or self.episodes.step_index[0] > self.episodes.last_step[0]:
            raise StmError("there is no episode under way; call reset() first")
        self._last = self.episodes.step(np.zeros(1, np.int64), np.asarray(action, np.int64).reshape(1, -1))
        last = self._last
        done = bool(last.terminated[0]), bool(last.truncated[0])
        return self._observation(), float(last.reward[0]), *done, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal, flat, shape ``((1 + R) * (K + 1),)``."""
        return np.asarray(self.episodes.action_masks()[0])

    def render(self) -> str | None:
        """Return the window, the memory and the last step as text if the render mode is ``ansi``."""
        return render_step(self.episodes, self._last) if self.render_mode == "ansi" else None

    def get_state(self) -> dict[str, Any]:
        """Return a snapshot of the episode and the random state."""
        return {"episodes": self.episodes.get_state(), "random": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a snapshot exactly."""
        self.episodes.set_state(state["episodes"])
        generator, _ = seeding.np_random(0)
        generator.bit_generator.state = state["random"]
        self.np_random = generator
        self._last = None

    def _observation(self) -> Observation:
        return {name: value[0] for name, value in self.episodes.observe().items()}

    def _info(self) -> dict[str, Any]:
        episodes = self.episodes
        item, step = episodes.current[0], int(episodes.step_index[0])
        turns = item.transcript.turns
        start = max(0, step + 1 - episodes.settings.window)
        info: dict[str, Any] = {
            "transcript": item.transcript.id,
            "step": step,
            "turn": turns[step].text,
            "speaker": turns[step].speaker,
            "window": item.lines[start : step + 1],
            "memory": [None if turn == EMPTY else item.lines[turn] for turn in episodes.memory.turn[0]],
            "oracle": {"evidence": episodes.needed_turns(0, step)},
        }
        if self._last is not None:
            info["coherence_gain"] = float(self._last.gain[0])
            info["reads"] = self._last.reads[0]
            info["left_out"] = int(self._last.left_out[0])
            info["written"] = self._last.texts[0] or None
            info |= {f"reward/{name}": float(value[0]) for name, value in self._last.terms.items()}
        return info


def draw_transcript(rng: np.random.Generator, transcripts: Sequence[Transcript], options: dict[str, Any] | None) -> int:
    """Return the index of the transcript to play: the one in ``options``, else a random one."""
    if options and "transcript" in options:
        index = int(options["transcript"])
        if not 0 <= index < len(transcripts):
            raise StmError(f"transcript {index} was asked for; expected 0 to {len(transcripts) - 1}")
        return index
    return int(rng.integers(len(transcripts)))

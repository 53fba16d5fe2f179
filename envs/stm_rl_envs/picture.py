"""Picture and sound stories: an object seen or heard early decides a later sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stm_rl.encoders import named_encoder
from stm_rl.errors import StmError
from stm_rl.features import HashedWords, TextEncoder
from stm_rl.lm import LanguageModel, ScoringEngine, as_engine
from stm_rl.lm.prompt import line
from stm_rl.media import Encoder, MediaStore, MediaText, RandomFilters, Spectrum, Standardized, TaggedTranscripts
from stm_rl.media.seeing import SeeingLM, examples
from stm_rl.media.story import PictureWorld
from stm_rl.rewards import COSTS, DEFAULT_WEIGHTS
from stm_rl.transcript import AUDIO, IMAGE
from stm_rl.worlds import GeneratedTranscripts
from stm_rl.worlds.generated import FIRST_SEED
from stm_rl_envs.memory_env import MemoryEnv, draw_transcript
from stm_rl_envs.options import Rewards, memory_options
from stm_rl_envs.settings import GENERATE, TEACHER_FORCED
from stm_rl_envs.vector import MemoryVectorEnv

PICTURE_REWARDS: Rewards = {TEACHER_FORCED: DEFAULT_WEIGHTS, GENERATE: {"answer_f1": 1.0, **COSTS}}
ENCODERS: Mapping[str, Encoder] = {IMAGE: RandomFilters(), AUDIO: Spectrum()}
"""The default encoder of each medium."""
EXAMPLES = 16
"""Media of each object over which features are standardized."""
BOUND = 8.0
"""No number of an observation of :class:`PictureNamingEnv` is larger; larger ones are cut off."""


def picture_options(
    *,
    split: str = "train",
    episodes: int = 4000,
    lm: str | LanguageModel | ScoringEngine | None = None,
    encoder: TextEncoder | str | None = None,
    media_encoder: Encoder | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of a memory environment on picture or sound stories.

    Args:
        split: ``train``, ``validation`` or ``test``; they share no story.
        episodes: How many distinct stories.
        lm: A text model for the sentences that no picture decides; none for a fixed cost, so that they give no gain.
        encoder: Encodes texts; hashed words by default.
        media_encoder: Encodes pictures or sounds, such as a :class:`stm_rl.media.MediaEncoder`; random filters, or the
            spectrum, by default.
        **options: Settings of :class:`stm_rl.media.story.PictureWorld`, of the memory, and whatever else
            :class:`~stm_rl_envs.memory_env.MemoryEnv` takes.
    """
    world, others = _world(options)
    vectors = _vectors(encoder, media_encoder or ENCODERS[world.medium])
    transcripts = TaggedTranscripts(GeneratedTranscripts(world, split, episodes), vectors.store)
    seeing = ScoringEngine(SeeingLM(world, vectors.store, as_engine(lm)))
    return memory_options(transcripts, PICTURE_REWARDS, {**others, "lm": seeing, "encoder": vectors})


class PictureStoryEnv(MemoryEnv):
    """People show pictures of what they bought; later somebody asks, and what comes next depends on the picture.

    Description:
        Each story (:class:`stm_rl.media.story.PictureWorld`) shows small drawn pictures, each of an object of some
        colour and shape, and says in words only who bought it or that it is from a catalogue. The answer to "What had
        Anna bought?" names the object. Its likelihood is that of a small model that sees the pictures of the turns it
        reads (:class:`stm_rl.media.seeing.SeeingLM`). Texts refer to pictures by tags (:mod:`stm_rl.media.tags`).
        With ``medium="audio"`` people let each other hear short sounds instead, each of some pitch and instrument.

    Action space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Observation space:
        That of :class:`~stm_rl_envs.memory_env.MemoryEnv`; each vector holds the features of the pictures, or sounds,
        after those of the text, so that slots hold what was seen or heard.

    Reward:
        The coherence gain: log p(sentence | pictures read, window) - log p(sentence | window), at most log 16 nats a
        question, minus 0.01 for a write and 0.02 for a read. In ``generate`` mode the F1 of the words of the answer.

    Registered ids:
        ``stm_rl/PictureStory-v0``, ``stm_rl/SoundStory-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`picture_options`.
        """
        super().__init__(**picture_options(**options))


class PictureStoryVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`PictureStoryEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`PictureStoryEnv`.
        """
        super().__init__(num_envs, **picture_options(**options))


class PictureNamingEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """The stories of PictureStory for agents with a memory of their own, such as a recurrent policy.

    Description:
        At each step the agent sees one turn as a vector: text and picture features. Where the narrator asks what
        somebody bought, it has to name the object; elsewhere its action has no effect. Answers are left out. At least
        two turns are between the last picture and the first question, and pictures of what was not bought are among
        them. An action changes nothing but its own reward, so a discount of 0 is right.

    Action space:
        ``MultiDiscrete([colours, shapes])``: the two words of the object's name.

    Observation space:
        A float32 box of shape ``(d,)``: features of the text, scaled to a root mean square of about 1, then those of
        the picture, standardized (:class:`stm_rl.media.Standardized`), or zeros; none above 8.

    Reward:
        At a question the share of the two words that are right, else 0. By default there are three questions, so 3 is
        the most, which is what the oracle earns; who remembers nothing earns 0.75 on average, whatever it says.

    Termination:
        The last question has been answered.

    Registered ids:
        ``stm_rl/PictureNaming-v0``, ``stm_rl/SoundNaming-v0``
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        *,
        split: str = "train",
        episodes: int = FIRST_SEED["validation"],
        encoder: TextEncoder | str | None = None,
        media_encoder: Encoder | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Make the environment.

        Args:
            split: As in :func:`picture_options`, like ``encoder`` and ``media_encoder``.
            episodes: How many distinct stories. By default so many that hardly one is ever met twice. Every medium
                is encoded once and its features are kept, so give some thousand where the encoder is slow.
            encoder: See ``split``.
            media_encoder: See ``split``.
            render_mode: ``ansi`` or none.
            **options: Settings of :class:`stm_rl.media.story.PictureWorld`.
        """
        if render_mode not in (None, "ansi"):
            raise StmError(f"render_mode is {render_mode!r}; expected 'ansi' or none")
        world, others = _world(options)
        if others:
            raise StmError(f"unknown setting {next(iter(others))!r}; expected some of {', '.join(SETTINGS)}")
        self.vectors = _vectors(encoder, _standardized(media_encoder or ENCODERS[world.medium], world))
        self.transcripts = TaggedTranscripts(GeneratedTranscripts(world, split, episodes), self.vectors.store)
        self.scale = np.ones(self.vectors.dimension, np.float32)
        self.scale[: self.vectors.text.dimension] = np.sqrt(self.vectors.text.dimension)  # texts are of unit length
        self.world, self.render_mode = world, render_mode
        self.observation_space = spaces.Box(-BOUND, BOUND, (self.vectors.dimension,), np.float32)
        self.action_space = spaces.MultiDiscrete([world.colours, world.shapes])
        self._lines: list[str] = []
        self._answers: list[int | None] = []
        self._seen = np.zeros((0, self.vectors.dimension), np.float32)
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a story.

        Args:
            seed: Seeds the choice of stories.
            options: ``{"transcript": i}`` plays the story with index ``i``.
        """
        super().reset(seed=seed)
        story = self.transcripts[draw_transcript(self.np_random, self.transcripts, options)]
        answers = {probe.turn - 1: self.world.objects.index(probe.answer) for probe in story.probes}
        kept = [number for number in range(len(story)) if number - 1 not in answers]
        self._lines = [line(story.turns[number]) for number in kept]
        self._answers = [answers.get(number) for number in kept]
        self._seen = np.clip(self.vectors(self._lines) * self.scale, -BOUND, BOUND)
        self._step = 0
        return self._seen[0].copy(), self._info()

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Name an object and go on to the next turn.

        Returns:
            Observation, reward, terminated, truncated (never) and info: ``asked``, whether the turn that is now shown
            is a question, and, for references that may look ahead, ``oracle`` (``answer``: the number of the object,
            that is colour * shapes + shape, or -1). After the last turn the observation is zeros.

        Raises:
            StmError: There is no story under way, or the action is out of range.
        """
        if self._step >= len(self._lines):
            raise StmError("there is no episode under way; call reset() first")
        colours, shapes = self.world.colours, self.world.shapes
        if (named := np.asarray(action)) not in self.action_space:
            expected = f"a colour, 0 to {colours - 1}, and a shape, 0 to {shapes - 1}"
            raise StmError(f"the action is {action}; expected {expected}")
        answer = self._answers[self._step]
        reward = 0.0 if answer is None else float(np.mean(named == divmod(answer, shapes)))
        self._step += 1
        over = self._step == len(self._lines)
        observation = np.zeros(self.vectors.dimension, np.float32) if over else self._seen[self._step].copy()
        return observation, reward, over, False, self._info()

    def _info(self) -> dict[str, Any]:
        answer = self._answers[self._step] if self._step < len(self._answers) else None
        return {"asked": answer is not None, "oracle": {"answer": -1 if answer is None else answer}}

    def render(self) -> str | None:
        """Return the turns so far as text if the render mode is ``ansi``."""
        return "\n".join(self._lines[: self._step + 1]) if self.render_mode == "ansi" else None


SETTINGS = tuple(field.name for field in fields(PictureWorld))


def _world(options: Mapping[str, Any]) -> tuple[PictureWorld, dict[str, Any]]:
    """Return the world and the options that are not settings of it."""
    settings = {name: value for name, value in options.items() if name in SETTINGS}
    return PictureWorld(**settings), {name: value for name, value in options.items() if name not in SETTINGS}


def _vectors(encoder: TextEncoder | str | None, media_encoder: Encoder) -> MediaText:
    """Return what turns lines, with the media they refer to, into vectors."""
    text = named_encoder(encoder) if isinstance(encoder, str) else encoder or HashedWords(64)
    return MediaText(text, _store(media_encoder))


@lru_cache(maxsize=8)
def _store(encoder: Encoder) -> MediaStore:
    """Return the store of an encoder: one for all environments, so that no medium is encoded in each of them."""
    return MediaStore({encoder.kind: encoder})


@lru_cache(maxsize=8)
def _standardized(encoder: Encoder, world: PictureWorld) -> Standardized:
    return Standardized(encoder, examples(world, EXAMPLES)[0])

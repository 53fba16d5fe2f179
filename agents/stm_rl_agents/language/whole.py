"""Whole episodes as one conversation: each turn is the answer to the call that ended the turn before.

A conversation only grows, so that a model sees all turns it was told of. What it gains by its memory is what the
language model that scores the turns gains, which sees reads and window only.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from stm_rl.errors import StmError
from stm_rl_agents.base import Agent
from stm_rl_agents.language.chat import held_by, state_text
from stm_rl_agents.language.grpo import FORMAT_WEIGHT
from stm_rl_agents.language.tools import FORGET, READ, WRITE, Message, decision_of, parse
from stm_rl_envs.episodes import Episodes, StepResult
from stm_rl_envs.vector import MemoryVectorEnv

P = ParamSpec("P")
INSTRUCTION = (
    "You keep a small memory of a conversation. You see what its slots hold and, as the last line, the turn that has "
    "just arrived. Call memory_write if that turn will be needed later, in a free slot or in one whose turn is out of "
    "date or worth least. Then call memory_read with the slots that the next turn depends on, or with none: this ends "
    "the turn, and the next one is the answer. Go on so until the conversation is over, then answer without a call."
)
"""What models with a template of their own are told; see :func:`~stm_rl_agents.language.chat.is_short`."""
DONE, OVER, ERROR = "ok", "over", "error: "
"""Answers: a call was taken, the conversation is over, and what goes before the reason why a call was left out."""


def _tool(method: Callable[Concatenate[WholeEpisode, P], str]) -> Callable[Concatenate[WholeEpisode, P], str]:
    """Count the calls of a method, and answer those whose arguments do not fit it."""
    signature = inspect.signature(method)

    @wraps(method)
    def answer(self: WholeEpisode, /, *values: P.args, **named: P.kwargs) -> str:
        self.calls += 1
        try:
            signature.bind(self, *values, **named)
        except TypeError as error:
            return self._leave_out(f"{method.__name__}: {error}")
        return method(self, *values, **named)

    return answer


class WholeEpisode:
    """One episode at a time for the ``environment_factory`` of TRL's GRPOTrainer: its public methods are the tools.

    What a turn's calls decide is done when ``memory_read`` ends the turn, as by
    :class:`~stm_rl_agents.language.tools.Decision`. A model that stops calling leaves out the rest of the transcript,
    and gains nothing there.

    Args:
        env: An environment of one episode that does not reset itself.
        max_turns: Most turns of an episode; None: until its transcript ends.
        show_memory: Whether each turn comes with what the slots hold, instead of alone.

    Attributes:
        calls: How many calls were answered since the last reset.
        malformed: What was wrong with calls that were left out, and how often.
        turns: How many turns were ended.
    """

    def __init__(self, env: MemoryVectorEnv, max_turns: int | None = None, show_memory: bool = False) -> None:
        if env.num_envs != 1 or env.autoreset:
            raise StmError(
                f"the environment has {env.num_envs} episodes and autoreset={env.autoreset}; expected one episode that "
                "does not reset itself"
            )
        if max_turns is not None and max_turns < 1:
            raise StmError(f"max_turns is {max_turns}; expected at least 1")
        self._env, self._max_turns, self._show_memory = env, max_turns, show_memory
        self._over = True
        self._clear()

    def _clear(self) -> None:
        self.calls, self.turns = 0, 0
        self.malformed: Counter[str] = Counter()
        self._reward = 0.0
        self._taken: list[Message] = []
        self._pending: list[Callable[[], StepResult]] = []

    def reset(self, *, transcript: int, **_: Any) -> None:
        """Begin the episode of a row of the data set; nothing is left of the one before.

        Args:
            transcript: Index of the transcript.
            **_: The rest of the row.

        Raises:
            StmError: There is no such transcript.
        """
        self._clear()
        self._env.reset(options={"transcripts": [transcript]})
        self._over = False

    def get_reward(self) -> float:
        """Return the sum of the rewards of the turns that were ended, in nats; waits for the scores."""
        self._reward += sum(float(finish().reward[0]) for finish in self._pending)
        self._pending = []
        return self._reward

    @_tool
    def memory_write(self, slot: int, text: str = "") -> str:
        """Keep the last turn in a slot of the memory; what the slot held is superseded.

        Args:
            slot: Number of the slot, from 1.
            text: What to keep in place of the turn's own words.
        """
        return self._take(WRITE, slot=slot, text=text) or DONE

    @_tool
    def memory_forget(self, slot: int) -> str:
        """Empty a slot of the memory.

        Args:
            slot: Number of the slot, from 1.
        """
        return self._take(FORGET, slot=slot) or DONE

    @_tool
    def memory_read(self, slots: list[int]) -> str:
        """Put what slots hold in front of the model that continues the conversation, and go on to the next turn.

        Args:
            slots: Numbers of slots, from 1; may be empty.
        """
        return self._take(READ, slots=slots) or self._next_turn()

    def _take(self, name: str, **values: Any) -> str:
        """Take a call into the turn's decision; return what is wrong with it, if anything."""
        if self._over:
            return self._leave_out("the conversation is over")
        taken = [*self._taken, {"name": name, "arguments": values}]
        settings = self._env.episodes.settings
        wrong = parse({"tool_calls": taken}, settings.slots, settings.reads).malformed
        if wrong:
            return self._leave_out(wrong[0])
        self._taken = taken
        return ""

    def _leave_out(self, reason: str) -> str:
        self.malformed[reason] += 1
        return ERROR + reason[:80]  # answers count against the length of the completion

    def _next_turn(self) -> str:
        episodes = self._env.episodes
        settings = episodes.settings
        action = parse({"tool_calls": self._taken}, settings.slots, settings.reads).apply(episodes, 0)
        self._pending.append(episodes.begin(np.zeros(1, np.int64), action[None]))
        self._taken = []
        self.turns += 1
        self._over = bool(episodes.step_index[0] > episodes.last_step[0]) or self.turns == self._max_turns
        return OVER if self._over else _shown(episodes, self._show_memory)


def _shown(episodes: Episodes, memory: bool) -> str:
    """Return the turn that has arrived, after what the slots hold if that is to be shown."""
    step = int(episodes.step_index[0])
    line = episodes.current[0].lines[step]
    return state_text(held_by(episodes, 0), [line], step) if memory else line


def environment_factory(
    make_env: Callable[[int], MemoryVectorEnv], max_turns: int | None = None, show_memory: bool = False
) -> Callable[[], WholeEpisode]:
    """Return what makes environments for TRL's GRPOTrainer.

    Args:
        make_env: Makes an environment of so many episodes; all should share one scoring engine.
        max_turns: See :class:`WholeEpisode`.
        show_memory: See :class:`WholeEpisode`.
    """
    return lambda: WholeEpisode(make_env(1), max_turns, show_memory)


def _first_prompt(env: MemoryVectorEnv, index: int, short: bool) -> list[Message]:
    env.reset(options={"transcripts": [index]})
    asked = {"role": "user", "content": _shown(env.episodes, memory=True)}
    return [asked] if short else [{"role": "system", "content": INSTRUCTION}, asked]


def episode_rows(env: MemoryVectorEnv, indices: Sequence[int], short: bool) -> Dataset:
    """Return a data set of episodes, whose rows hold a prompt and the index of a transcript.

    All completions of a row play the same episode.

    Args:
        env: An environment of one episode that does not reset itself; it needs no language model.
        indices: Indices of transcripts.
        short: Leave out the instruction; see :func:`~stm_rl_agents.language.chat.is_short`.
    """
    return Dataset.from_list([{"prompt": _first_prompt(env, one, short), "transcript": int(one)} for one in indices])


@dataclass(frozen=True, slots=True)
class EpisodeDemonstration:
    """A whole episode as a conversation to imitate.

    Attributes:
        messages: The prompt, calls, their answers, and so on.
    """

    messages: list[Message]


def demonstrate_episodes(
    actor: Agent, env: MemoryVectorEnv, indices: Sequence[int], short: bool, **options: Any
) -> list[EpisodeDemonstration]:
    """Play transcripts, and write down the conversations that a model would have had.

    Args:
        actor: Who plays.
        env: An environment of one episode that does not reset itself; it needs no language model.
        indices: Indices of the transcripts.
        short: Leave out the instruction; see :func:`~stm_rl_agents.language.chat.is_short`.
        **options: Those of :class:`WholeEpisode`, as in training later.
    """
    actor.start(env)
    episode = WholeEpisode(env, **options)
    return [EpisodeDemonstration(_conversation(actor, env, episode, index, short)) for index in indices]


def _conversation(actor: Agent, env: MemoryVectorEnv, episode: WholeEpisode, index: int, short: bool) -> list[Message]:
    messages = _first_prompt(env, index, short)
    episode.reset(transcript=index)
    while not episode._over:
        decision = decision_of(actor.act(env.episodes.observe(), env.episodes.action_masks())[0])
        calls = decision.calls()
        if not decision.reads:
            calls.append({"type": "function", "function": {"name": READ, "arguments": {"slots": []}}})
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        for call in calls:
            name, values = call["function"]["name"], call["function"]["arguments"]
            messages.append({"role": "tool", "name": name, "content": getattr(episode, name)(**values)})
    return [*messages, {"role": "assistant", "content": ""}]


def well_formed_calls(
    environments: Sequence[WholeEpisode], log_metric: Callable[[str, float], None], **_: Any
) -> list[float | None]:
    """Return the share of well-formed calls of each episode: a reward function for TRL's GRPOTrainer.

    It is 0 for an episode without calls. It also logs how many turns were played. Calls of tools that do not exist,
    which no environment sees, are in TRL's ``tools/failure_frequency``.
    """
    calls = np.array([one.calls for one in environments])
    bad = np.array([one.malformed.total() for one in environments])
    log_metric("malformed", float(bad.sum() / max(calls.sum(), 1)))
    log_metric("turns", float(np.mean([one.turns for one in environments])))
    return [float(value) for value in (calls - bad) / np.maximum(calls, 1)]


def whole_episode_trainer(
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    factory: Callable[[], WholeEpisode],
    peft_config: Any = None,
    **options: Any,
) -> GRPOTrainer:
    """Return a trainer that makes likelier the conversations that lead to more, episode by episode.

    Args:
        model: A causal transformers model that calls tools already, or its folder.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        rows: See :func:`episode_rows`.
        factory: See :func:`environment_factory`.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's GRPOConfig. ``max_completion_length`` bounds the whole conversation, turns included;
            an episode whose next turn does not fit ends there.
    """
    args = GRPOConfig(**{"scale_rewards": "batch", "reward_weights": [FORMAT_WEIGHT], "report_to": [], **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using 'environment_factory'", category=UserWarning)
        return GRPOTrainer(
            model=model,
            reward_funcs=[well_formed_calls],
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=peft_config,
            environment_factory=factory,
        )

"""Demonstrations from transcripts in which an assistant calls memory tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.memory_tools import Plan, ToolMapping, ToolReport, plan, tool_mapping, tool_script
from stm_rl.memory_tools.script import place_of
from stm_rl.transcript import Transcript
from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_agents.demonstrations import Demonstrations, card_of, record
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

BATCH = 64
"""Most transcripts played together."""


class ToolCallDemonstrator(Agent):
    """Plays plans: what an assistant did with its tools, as actions.

    Attributes:
        stakes: 1 for each part of the last actions, and 0 where a call could not be mapped, shape ``(n, 1 + R)``.
    """

    name = "tool-calls"

    def __init__(self, transcripts: Sequence[Transcript], plans: Sequence[Plan]) -> None:
        """Make the demonstrator.

        Args:
            transcripts: Transcripts without calls, as the environment has them.
            plans: The plan of each, made for the slots, reads and steps of the environment.
        """
        self.transcripts = transcripts
        self.plans = plans
        self.stakes: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._episodes: Episodes | None = None

    def start(self, env: MemoryVectorEnv) -> None:
        """Keep the environment's episodes.

        Raises:
            StmError: They are on other transcripts, or the plans are for other slots or reads.
        """
        own, theirs = self.transcripts, env.episodes.prepare.transcripts
        if len(own) != len(theirs) or any(a is not b and a != b for a, b in zip(own, theirs, strict=True)):
            raise StmError("the environment has other transcripts than the demonstrator; make it of the same")
        have = (env.episodes.settings.slots, env.episodes.settings.reads)
        made_for = {(one.slots, one.actions.shape[1] - 1) for one in self.plans}
        if made_for - {have}:
            raise StmError(f"the environment has slots, reads {have} but plans are for {made_for}; plan anew")
        self._episodes = env.episodes

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return the actions planned for the steps the episodes are at; zeros for those that have ended."""
        episodes = self._episodes
        if episodes is None:
            raise StmError(f"{self.name} was not started; call start(env) first")
        actions = np.zeros((episodes.n, 1 + reads_of(observation, action_masks)), np.int64)
        self.stakes = np.ones(actions.shape, np.float32)
        for row in range(episodes.n):
            if episodes.transcript_index[row] < 0:  # not begun yet
                continue
            planned, step = self.plans[episodes.transcript_index[row]], int(episodes.step_index[row])
            if step < len(planned.actions):
                actions[row], self.stakes[row] = planned.actions[step], planned.known[step]
        return actions


def tool_demonstrations(
    transcripts: Iterable[Transcript],
    mapping: ToolMapping | str | Path,
    settings: MemorySettings | None = None,
    encoder: TextEncoder | str | None = None,
    *,
    env_name: str = "transcripts",
    on_episodes: Callable[[int], None] = lambda count: None,
) -> tuple[Demonstrations, ToolReport]:
    """Return what assistants did with their memory tools as demonstrations.

    Only transcripts of which at least one call becomes part of an action are demonstrations; the others teach nothing
    but to leave everything out. No language model is needed, so rewards are of no account.

    Args:
        transcripts: As :func:`~stm_rl.readers.read_transcripts` reads messages with tool calls.
        mapping: What the tools do: a mapping, the name of a built-in one or a YAML file.
        settings: Slots, reads, window and most steps of the memory.
        encoder: Encodes turns; an encoder, its name, or none for the default one.
        env_name: What the card of the demonstrations says of where they were made.
        on_episodes: Called with the number of episodes just finished.

    Raises:
        StmError: The mapping is malformed, a call names a slot that does not exist, or nothing could be mapped at all.
    """
    settings = settings or MemorySettings()
    mapping = mapping if isinstance(mapping, ToolMapping) else tool_mapping(mapping)
    report = ToolReport(mapping.name)
    stripped: list[Transcript] = []
    plans: list[Plan] = []
    for transcript in transcripts:
        script = tool_script(transcript, mapping)
        report.transcripts += 1
        planned = plan(script, settings.slots, settings.reads, settings.max_steps, report)
        if planned is None or script.transcript is None:
            report.too_short += 1
            report.first_too_short = report.first_too_short or place_of(transcript)
        elif all(call.operation == "say" for call in script.calls):
            report.without_calls += 1
        elif not planned.mapped:
            report.nothing_mapped += 1
        else:
            stripped.append(script.transcript)
            plans.append(planned)
    report.demonstrations = len(plans)
    if not plans:
        raise StmError(_nothing(report))
    env = MemoryVectorEnv(
        min(BATCH, len(plans)),
        stripped,
        settings=settings,
        lm=None,
        reward={"write_cost": 1.0},  # of no account, and needs no language model
        encoder=encoder,
        autoreset=False,
    )
    demonstrator = ToolCallDemonstrator(stripped, plans)
    card = card_of(env, f"tool-calls:{mapping.name}", env_name)
    return Demonstrations(record(demonstrator, env, range(len(plans)), on_episodes), card), report


def _nothing(report: ToolReport) -> str:
    """Say why there is no demonstration."""
    why = max(report.unmappable.items(), key=lambda item: item[1].count, default=None)
    most = f"; most often because {why[0]} ({why[1].count} calls, first {why[1].first})" if why else ""
    return (
        f"none of {report.transcripts} transcripts became a demonstration: {report.calls} calls, of which "
        f"{report.missed} could not be mapped{most}; expected calls of the tools in the mapping {report.mapping}"
    )

"""Episodes played on a Ray cluster.

An actor plays a few episodes with every agent, not one agent with all episodes, since agents that meet the same turns
ask for many of the same scores. The result is that of one process, because what an agent does in an episode does not
depend on which others are played beside it. Agents that draw at random are the exception: their one generator goes on
from episode to episode. Each of them plays all its episodes on one actor, which is the same by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stm_rl.cluster.actors import Cluster
from stm_rl.evaluation.runner import BATCH, MakeEnv, Played, Player, play

JOBS = 2
"""Jobs an actor, if there are enough episodes."""
FEWEST = 8
"""Episodes of a job, at least: fewer make small batches for the language model."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What an actor plays with.

    Attributes:
        agents: The agents by name, and one that was trained several times once for each seed.
        make_env: Makes the environment.
    """

    agents: Mapping[str, Sequence[Player]]
    make_env: MakeEnv


@dataclass(frozen=True, slots=True)
class _Job:
    """Episodes that some agents, by name and number, play; of each the first episodes are traced."""

    agents: list[tuple[str, int]]
    episodes: Sequence[int]
    traces: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Work:
    make_stage: Callable[[], Stage]

    def __call__(self) -> Callable[[_Job], list[Played]]:
        stage = self.make_stage()

        def work(job: _Job) -> list[Played]:
            return [
                play(stage.agents[name][number], stage.make_env, job.episodes, traces=job.traces.get(name, 0))
                for name, number in job.agents
            ]

        return work


def play_on(
    cluster: Cluster,
    make_stage: Callable[[], Stage],
    agents: Mapping[str, Sequence[Player]],
    episodes: Sequence[int],
    traces: Mapping[str, int],
    on_episodes: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Played]]:
    """Play episodes with agents on a cluster; see :func:`stm_rl.evaluation.play`.

    Args:
        cluster: Where.
        make_stage: Makes, on an actor, the same agents and their environment.
        agents: The agents.
        episodes: Indices of transcripts.
        traces: How many of the first episodes to record, by name of the agent; 0 for others.
        on_episodes: Called with the number of episodes just finished, for a progress bar.

    Returns:
        What each agent did, by its name, as one process would have found it.
    """
    numbered = [(name, number) for name, members in agents.items() for number in range(len(members))]
    drawing = [(name, number) for name, number in numbered if agents[name][number].draws]
    others = [one for one in numbered if one not in drawing]
    size = min(BATCH, max(FEWEST, -(-len(episodes) // (JOBS * cluster.workers))))
    jobs = [_Job([one], episodes, dict(traces)) for one in drawing]  # the longest ones first
    jobs += [
        _Job(others, episodes[first : first + size], {name: max(0, count - first) for name, count in traces.items()})
        for first in range(0, len(episodes) if others else 0, size)
    ]
    found: dict[int, list[Played]] = {}
    for number, results in cluster.map(_Work(make_stage), jobs):
        found[number] = results
        on_episodes(len(jobs[number].episodes) * len(results))
    parts: dict[tuple[str, int], list[Played]] = {one: [] for one in numbered}
    for number, job in enumerate(jobs):
        for one, played in zip(job.agents, found[number], strict=True):
            parts[one].append(played)
    return {
        name: [Played.joined(parts[name, number]) for number in range(len(members))] for name, members in agents.items()
    }

"""Runs put together: which are seeds of one agent, and what each agent earned in each environment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stm_rl.report.reading import Note, Source

FloatArray = NDArray[np.float64]
Role = Literal["learned", "heuristic", "reference"]

PLACE = ("env", "transcripts", "format", "limit", "sets")
"""What says where an agent was trained."""
NOT_SETTINGS = frozenset(
    "out seed init labels pairs cache device dtype compile threads ray ray_workers eval_episodes demonstrations".split()
)
"""What may differ between seeds of one agent."""
SAME = 0.05
"""Nats by which returns of the same agent in the same episode may differ between machines."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What agents are that were not trained.

    Attributes:
        heuristics: Agents with the same budget.
        references: Agents that know more than an agent may.
        varying: Those of them that may do otherwise in the same episode, by chance or by what they were told.
    """

    heuristics: Collection[str]
    references: Collection[str]
    varying: Collection[str] = ()

    def of(self, name: str) -> Role:
        """Return the role of an agent."""
        if name in self.heuristics:
            return "heuristic"
        return "reference" if name in self.references else "learned"


@dataclass(slots=True)
class Scores:
    """What one agent did in one environment.

    Attributes:
        agent: Its name in the report.
        role: What it is.
        seeds: Seeds it was trained with.
        returns: Nats, shape ``(seeds, episodes)``; None if only the means are known.
        terms: Sums of weighted reward terms, each of the same shape.
        entries: Its entries in the ``eval.json`` of each run.
    """

    agent: str
    role: Role
    seeds: list[int] = field(default_factory=list)
    returns: FloatArray | None = None
    terms: dict[str, FloatArray] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        """Return the mean over runs of an entry of ``eval.json``; None where it is not known."""
        values = [entry[name] for entry in self.entries]
        numbers = [value["mean"] if isinstance(value, dict) else value for value in values if value is not None]
        return float(np.mean(numbers)) if numbers else None

    def add(self, seed: int, entry: dict[str, Any]) -> None:
        """Add one run of it, an entry of ``episodes.json``."""
        returns = np.array([entry["return"]], float)
        terms = {name: np.array([values], float) for name, values in entry.get("terms", {}).items()}
        if self.returns is None:
            self.returns, self.terms = returns, terms
        else:
            self.returns = np.concatenate([self.returns, returns])
            self.terms = {n: np.concatenate([v, terms[n]]) for n, v in self.terms.items() if n in terms}
        self.seeds.append(seed)


@dataclass(slots=True)
class Task:
    """An environment with its settings and held-out episodes, and what agents did there.

    Attributes:
        env: Its id.
        settings: As in ``eval.json``.
        episodes: Number of held-out episodes.
        agents: What each agent did, by its name.
        title: How it is told apart from the others.
    """

    env: str
    settings: dict[str, Any]
    episodes: int
    agents: dict[str, Scores] = field(default_factory=dict)
    title: str = ""

    def of(self, *roles: Role) -> list[Scores]:
        """Return agents of some roles."""
        return [scores for scores in self.agents.values() if scores.role in roles]


def label_runs(sources: Sequence[Source]) -> tuple[dict[int, str], list[Note]]:
    """Return what the policy of each source is called in the report, by the number of the source.

    Runs in one place with the same name and settings but other seeds are one agent. Where settings differ, the name of
    the first folder tells them apart. A run that repeats another one, seed and all, gets no name. In other
    environments an agent of the same name goes into the same row.
    """
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for number, source in enumerate(sources):
        if source.name:
            place = repr([source.request.get(name) for name in PLACE])
            groups.setdefault((source.name, place), {}).setdefault(_likeness(source), []).append(number)
    labels: dict[int, str] = {}
    notes: list[Note] = []
    for (name, _), kinds in groups.items():
        for members in kinds.values():
            label = name if len(kinds) == 1 else f"{name} ({sources[members[0]].folder.resolve().name})"
            seeds: dict[int, int] = {}
            for number in members:
                first = seeds.setdefault(sources[number].seed, number)
                if first == number:
                    labels[number] = label
                else:
                    what = f"repeats {sources[first].folder}, seed and all; only that one is counted"
                    notes.append(Note(str(sources[number].folder), what))
    return labels, notes


def _likeness(source: Source) -> str:
    """Return a text that is the same for seeds of one agent."""
    request = {name: value for name, value in source.request.items() if name not in NOT_SETTINGS}
    method = source.config.get(source.section, {})
    method = {name: value for name, value in method.items() if name != "seed"} if isinstance(method, dict) else {}
    started = bool(source.request.get("init"))
    return repr([sorted(request.items()), sorted(method.items(), key=str), started])


def make_tasks(sources: Sequence[Source], labels: dict[int, str], roles: Roles) -> tuple[list[Task], list[Note]]:
    """Return what agents did in each environment, and what was left out."""
    tasks: list[Task] = []
    notes: list[Note] = []
    for number, source in enumerate(sources):
        evaluation = source.evaluation
        if evaluation is None or "agents" not in evaluation:
            continue
        found = Task(str(evaluation["env"]), dict(evaluation["settings"]), int(evaluation["episodes"]))
        for name, entry in evaluation["agents"].items():
            role = roles.of(name)
            own = role == "learned" and name == source.name and bool(source.command)
            if own and number not in labels:
                continue  # repeats another run
            label = labels[number] if own else name
            scores = found.agents.setdefault(label, Scores(label, role))
            scores.entries.append(entry)
            for one in source.details.get(name, []):
                scores.add(one["seed"], one)
        same = next((task for task in tasks if _same_episodes(task, found, roles)), None)
        if same is None:
            tasks.append(found)
        else:
            notes += _merge(same, found, source)
    _name_tasks(tasks)
    return tasks, notes


def _same_episodes(task: Task, other: Task, roles: Roles) -> bool:
    """Return whether two evaluations are of the same episodes: agents that do not learn earned the same in both."""
    if (task.env, task.settings, task.episodes) != (other.env, other.settings, other.episodes):
        return False
    for name, scores in task.agents.items():
        if scores.role != "learned" and name not in roles.varying and name in other.agents:
            mine, theirs = scores.returns, other.agents[name].returns
            if mine is not None and theirs is not None and not np.allclose(mine, theirs, rtol=0, atol=SAME):
                return False
            a, b = scores.mean("return"), other.agents[name].mean("return")
            if a is not None and b is not None and abs(a - b) > SAME:
                return False
    return True


def _merge(task: Task, other: Task, source: Source) -> list[Note]:
    """Add what agents did in the same episodes elsewhere; return what was left out."""
    notes = []
    for name, scores in other.agents.items():
        known = task.agents.get(name)
        if known is None:
            task.agents[name] = scores
            continue
        if scores.role != "learned":
            if known.returns is None:  # the same agent in the same episodes
                task.agents[name] = scores
            continue
        if known.returns is None or scores.returns is None:
            what = f"has {name} again; one of the two has no episodes.json, so only the first is counted"
            notes.append(Note(str(source.folder), what))
            continue
        new = [i for i, seed in enumerate(scores.seeds) if seed not in known.seeds]
        for i in new:
            terms = {term: values[i].tolist() for term, values in scores.terms.items()}
            known.add(scores.seeds[i], {"return": scores.returns[i].tolist(), "terms": terms})
        if new:
            known.entries += scores.entries
        if len(new) < len(scores.seeds):
            notes.append(Note(str(source.folder), f"has seeds of {name} that are counted already"))
    return notes


def _name_tasks(tasks: Sequence[Task]) -> None:
    """Give each task a title: its id, and the settings in which it differs from others of this id."""
    for task in tasks:
        twins = [other for other in tasks if other.env == task.env]
        differing = sorted(
            name
            for name in {name for twin in twins for name in twin.settings}
            if any(twin.settings.get(name) != task.settings.get(name) for twin in twins)
        )
        parts = [f"{name}={task.settings[name]}" for name in differing if name in task.settings]
        if len({twin.episodes for twin in twins}) > 1:
            parts.append(f"{task.episodes} episodes")
        task.title = ", ".join([task.env, *parts])
    seen: dict[str, int] = {}
    for task in tasks:
        seen[task.title] = seen.get(task.title, 0) + 1
        if seen[task.title] > 1:
            task.title += f" (other episodes, {seen[task.title]})"

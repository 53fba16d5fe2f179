"""The parts of a report, made from run folders."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.report.charts import improvement_figure, memory_figure, returns_figure, terms_figure
from stm_rl.report.compared import NONE, Compared, compare, normalised
from stm_rl.report.curves import curve_of, learning_figures
from stm_rl.report.episodes import Episode, choose, timeline
from stm_rl.report.figure import Figure
from stm_rl.report.reading import Note, Source, read_source
from stm_rl.report.tables import Roles, label_runs, make_tasks

ENVIRONMENTS = 6
"""Environments with figures of their own, at most."""
EPISODES = 12
"""Episodes shown turn by turn, at most; of each agent up to two of the best and of the worst."""


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """An episode, and its timeline."""

    episode: Episode
    figure: Figure


@dataclass(frozen=True, slots=True)
class TaskView:
    """An environment, and its figures."""

    compared: Compared
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report shows.

    Attributes:
        sources: Its folders.
        labels: What the policy of each source is called, by its number.
        compared: The environments.
        views: Those of them that have figures.
        overall: Normalised interquartile means over all environments, by agent.
        learning: Learning curves.
        episodes: Episodes turn by turn.
        notes: What is missing, damaged or left out.
    """

    sources: list[Source]
    labels: dict[int, str]
    compared: list[Compared]
    views: list[TaskView]
    overall: dict[str, Any]
    learning: list[Figure]
    episodes: list[EpisodeView]
    notes: list[Note]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in the order of the page."""
        of_tasks = [figure for view in self.views for figure in view.figures]
        return [*self.learning, *of_tasks, *(view.figure for view in self.episodes)]

    def summary(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "runs": [
                {"folder": str(source.folder), "agent": self.labels.get(number, ""), "seed": source.seed}
                for number, source in enumerate(self.sources)
            ],
            "environments": [_summary(one) for one in self.compared],
            "overall_iqm": {name: estimate.as_json() for name, estimate in self.overall.items()},
            "notes": [{"where": note.where, "what": note.what, "command": note.command} for note in self.notes],
        }


def make_report(folders: Sequence[Path], roles: Roles) -> Report:
    """Read run folders and compare their agents.

    Args:
        folders: At least one.
        roles: What agents are that were not trained.

    Raises:
        StmError: One of them is no run folder.
    """
    if not folders:
        raise StmError("a report needs at least one run folder; for instance: stm-rl report runs/demo")
    unique = list({folder.resolve(): folder for folder in folders}.values())
    sources = [read_source(folder) for folder in unique]
    notes = [note for source in sources for note in source.notes]
    if not any(source.continuations for source in sources):
        command = shlex.join(["stm-rl", "compare", str(unique[0])])
        notes.append(Note(str(unique[0]), "has no texts written with and without memory", command))
    labels, repeated = label_runs(sources)
    tasks, more = make_tasks(sources, labels, roles)
    notes += repeated + more
    compared = [compare(task) for task in tasks]
    curves = [
        curve
        for number, source in enumerate(sources)
        if number in labels and (curve := curve_of(source, labels[number]))
    ]
    learning, crowded = learning_figures(curves)
    notes += [Note(agent, "has no learning curve here: there are too many in one figure") for agent in crowded]
    views = [TaskView(one, _figures(one, number)) for number, one in enumerate(compared[:ENVIRONMENTS], start=1)]
    notes += [
        Note(one.task.title, f"has no figures: those of the first {ENVIRONMENTS} environments are shown")
        for one in compared[ENVIRONMENTS:]
    ]
    episodes, left_out = _episodes(sources, labels, roles, compared)
    notes += left_out
    return Report(sources, labels, compared, views, normalised(compared), learning, episodes, notes)


def _figures(compared: Compared, number: int) -> list[Figure]:
    task = compared.task
    rows = [(row.scores, row.mean.mean, row.mean.low, row.mean.high) for row in compared.rows]
    agents = [row.scores for row in compared.rows]
    figures: list[Figure | None] = [returns_figure(task, f"returns-{number}", rows)]
    names, chances = compared.matrix()
    if len(names) > 1:
        figures.append(improvement_figure(task, f"improvement-{number}", names, chances))
    figures += [memory_figure(task, f"memory-{number}", agents), terms_figure(task, f"terms-{number}", agents)]
    return [figure for figure in figures if figure is not None]


def _episodes(
    sources: Sequence[Source], labels: dict[int, str], roles: Roles, compared: Sequence[Compared]
) -> tuple[list[EpisodeView], list[Note]]:
    """Return the episodes that are shown, those of one seed for each agent and environment, best agents first."""
    found: dict[tuple[str, str], tuple[Source, str]] = {}
    for number, source in enumerate(sources):
        env = str((source.evaluation or {}).get("env", source.request.get("env", "")))
        for policy in dict.fromkeys(trace["agent"] for trace in source.traces):
            if roles.of(policy) == "learned":
                label = labels.get(number, "") if policy == source.name and source.command else policy
                if label:
                    found.setdefault((env, label), (source, policy))
    views: list[EpisodeView] = []
    notes: list[Note] = []
    each = 2 if len(found) * 4 <= EPISODES else 1
    means = {(one.task.env, row.scores.agent): row.mean.mean for one in compared for row in one.rows}
    for (env, label), (source, policy) in sorted(found.items(), key=lambda item: -means.get(item[0], 0.0)):
        episodes, left = choose(source.traces, policy, label, each)
        if not any(episode.kept or any(step["reads"] for step in episode.steps) for episode in episodes):
            what = f"has no episode of {label} on {env} in which it wrote or read; none is shown"
            notes.append(Note(str(source.folder / "traces.jsonl"), what))
            continue
        if len(views) + len(episodes) > EPISODES:
            notes.append(Note(str(source.folder), f"episodes of {label} on {env} are left out: {EPISODES} are enough"))
            continue
        if left:
            notes.append(Note(str(source.folder / "traces.jsonl"), f"has {left} more episodes of {label}"))
        for episode in episodes:
            views.append(EpisodeView(episode, timeline(episode, f"timeline-{len(views) + 1}")))
    return views, notes


def _summary(one: Compared) -> dict[str, Any]:
    task, best, base = one.task, one.best_learned, one.best_heuristic
    agents = {}
    for row in one.rows:
        agents[row.scores.agent] = {
            "role": row.scores.role,
            "seeds": row.scores.seeds,
            "return": row.mean.as_json(),
            "return_iqm": row.iqm.as_json() if row.iqm else None,
            **{name: row.scores.mean(name) for name in ("evidence_recall", "writes_per_turn", "reads_per_turn")},
        }
    against: dict[str, Any] = {}
    if best is not None:
        for name, other in (("best_heuristic", base), ("no_memory", one.row(NONE))):
            difference = one.difference(best, other) if other else None
            chance = one.improvement(best, other) if other else None
            against[name] = {
                "agent": other.scores.agent if other else None,
                "difference": difference.as_json() if difference else None,
                "probability_of_improvement": chance.as_json() if chance else None,
            }
    names, chances = one.matrix()
    return {
        "env": task.env,
        "title": task.title,
        "settings": task.settings,
        "episodes": task.episodes,
        "agents": agents,
        "best_learned": best.scores.agent if best else None,
        "against": against,
        "probability_of_improvement": {
            a: {b: round(float(chances[i, j]), 4) for j, b in enumerate(names) if i != j} for i, a in enumerate(names)
        },
    }

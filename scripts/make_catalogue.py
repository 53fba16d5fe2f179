#!/usr/bin/env python3
"""Write envs/README.md, the catalogue of environments, from what is registered and from class docstrings.

    python scripts/make_catalogue.py           # write it
    python scripts/make_catalogue.py --check   # fail if it is stale

Shows for each environment its levels, its documentation and the beginning of an episode.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
from generated import write_or_check

from stm_rl.lm.prompt import line
from stm_rl.registration import LEVELS, NAMING, PICTURE_NAMING, PICTURE_STORY
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.picture import PictureNamingEnv

PAGE = Path(__file__).parent.parent / "envs" / "README.md"
SAMPLE_TURNS = 10

CHEAP = {"lm": None, "reward": {"recall": 1.0}, "encoder": "words"}
"""Settings with which an environment with slots needs no language model."""

HEAD = """# Environments

<!-- Written by scripts/make_catalogue.py; do not edit by hand. -->

All environments but `PictureNaming` share their dynamics, spaces and options, {memory_env}: a transcript streams past
turn by turn, the agent writes turns to a small memory and reads them back, and a language model that otherwise sees a
short window is rewarded for what it then predicts or writes. They differ in the transcripts.

```python
import gymnasium as gym

env = gym.make("stm_rl:stm_rl/Story-v0", slots=4, window=2, mode="teacher-forced")
envs = gym.make_vec("stm_rl/Story-v0", 8, vectorization_mode="vector_entry_point", reward={{"coherence": 1.0}})
```

| id | turns | slots | window | reads | beats to a need | look-alikes |
|---|---|---|---|---|---|---|
{rows}

`stm_rl/NAME-v0` is the Medium level. Any setting can be given to `gym.make` (or `--set` on the command line).

"""

TAIL = """## Shared by all

{shared}

## Your own

`stm-rl init env my_env` writes a package with a world, an environment, a test and a README, which
`stm-rl validate env my_env:my_env/MyEnv-v0` checks and `stm-rl train my_env:my_env/MyEnv-v0` trains on. Nothing has to
be added here. See [docs/plugins.md](../docs/plugins.md).
"""


def markdown(docstring: str) -> str:
    """Turn a Google-style class docstring into Markdown."""
    lines = []
    for text in inspect.cleandoc(docstring).splitlines():
        heading = re.fullmatch(r"([A-Z][A-Za-z, ]+):", text)
        lines.append(f"**{heading[1]}.**" if heading else text.strip())
    text = "\n".join(lines)
    text = re.sub(r":(?:class|func|data|mod|meth):`~?([\w.]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", text)
    return text.replace("``", "`")


def row(env_id: str) -> str:
    """Return the table row of an id."""
    env = gym.make(env_id, **CHEAP).unwrapped
    assert isinstance(env, MemoryEnv)
    settings, world = env.episodes.settings, getattr(env.episodes.prepare.transcripts, "world", None)
    turns = world.turns if world else f"up to {settings.max_steps + 1}" if settings.max_steps else "all"
    gaps, look = (f"{world.min_gap} to {world.max_gap}", f"{world.distractor_rate:.0%}") if world else ("-", "-")
    return f"| `{env_id}` | {turns} | {settings.slots} | {settings.window} | {settings.reads} | {gaps} | {look} |"


def sample(env: gym.Env[Any, Any]) -> str:
    """Return the first turns of an episode."""
    assert isinstance(env, MemoryEnv | PictureNamingEnv)
    transcripts = env.transcripts if isinstance(env, PictureNamingEnv) else env.episodes.prepare.transcripts
    turns = transcripts[1].turns[:SAMPLE_TURNS]
    return "```\n" + "\n".join(map(line, turns)) + "\n...\n```"


def page() -> str:
    """Return the catalogue."""
    ids = [f"stm_rl/{name}-{level}-v0" for name, levels in LEVELS.items() for level in levels]
    text = HEAD.format(memory_env="`stm_rl_envs.MemoryEnv`", rows="\n".join(map(row, ids)))
    for env_id in [*(f"stm_rl/{name}-v0" for name in LEVELS), PICTURE_STORY, PICTURE_NAMING]:
        name = env_id.partition("/")[2].removesuffix("-v0")
        env = gym.make(env_id, **({} if env_id in NAMING else CHEAP)).unwrapped
        text += f"## {name}\n\n{markdown(type(env).__doc__ or '')}\n\n{sample(env)}\n\n"
    return text + TAIL.format(shared=markdown(MemoryEnv.__doc__ or ""))


if __name__ == "__main__":
    write_or_check(PAGE, page, __doc__)

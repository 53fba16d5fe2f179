"""Checks of an environment's dynamics: checkers, vector form, seeds, snapshots, speed, and no look ahead."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from stm_rl.cli.task import Task
from stm_rl.cli.validate_trajectory import Processes, Seen, digest, random_actions, scalar_env, slots_of, trajectory
from stm_rl.prepare import Preparer
from stm_rl.transcript import Transcript
from stm_rl.validation import Finding, error, ok, warning
from stm_rl_envs.memory_env import MemoryEnv

VECTOR_ENVS = 4
SLOW = 300
"""Steps a second outside the model below which the environment, and not the model, holds up training."""
TOLERANCE = 1e-5


def check_checkers(task: Task) -> Iterator[Finding]:
    """Run Gymnasium's and stable-baselines3's own checkers."""
    for name, check in (("gymnasium", check_env), ("stable-baselines3", check_sb3_env)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", ".*has an unconventional shape", UserWarning)  # slots are a matrix
            try:
                check(scalar_env(task))
            except AssertionError as failure:
                yield error(f"{name} checker", str(failure), "do what the message says, in reset, step or the spaces")
                continue
        told = list(dict.fromkeys(str(item.message) for item in caught))
        for message in told:
            yield warning(f"{name} checker", message, "mend what the warning is about; training shows it, too")
        if not told:
            yield ok(f"{name} checker", "no fault and no warning")


def check_vector(task: Task, seed: int) -> Iterator[Finding]:
    """Step the vector form and the scalar form together, past the ends of episodes."""
    name = "vector form"
    vector = task.make(VECTOR_ENVS)
    scalars = [scalar_env(task) for _ in range(VECTOR_ENVS)]
    rng = np.random.default_rng(seed)
    observation, _ = vector.reset(seed=seed)
    for row, env in enumerate(scalars):
        if not _same(env.reset(seed=seed + row)[0], {key: value[row] for key, value in observation.items()}):
            yield error(name, f"reset(seed={seed + row}) gives another observation", _VECTOR_ADVICE)
            return
    steps, ends = 0, 0
    while ends < VECTOR_ENVS and steps < 200:
        masks = vector.action_masks()
        actions = random_actions(rng, masks, slots_of(scalars[0]))
        observation, rewards, terminated, truncated, infos = vector.step(actions)
        for row, env in enumerate(scalars):
            same = np.array_equal(env.action_masks(), masks[row])
            seen, reward, *over, _ = env.step(actions[row])
            same = same and over == [bool(terminated[row]), bool(truncated[row])]
            same = same and abs(reward - float(rewards[row])) <= TOLERANCE
            if any(over):
                same = same and _same(seen, infos["final_obs"][row])
                seen, _ = env.reset()
                ends += 1
            if not same or not _same(seen, {key: value[row] for key, value in observation.items()}):
                yield error(name, f"environment {row} differs from the scalar form at step {steps}", _VECTOR_ADVICE)
                return
        steps += 1
    yield ok(name, f"same observations, masks, rewards and ends in {steps} steps of {VECTOR_ENVS} environments")


_VECTOR_ADVICE = "make both forms from the same keyword arguments, and override nothing in one of them only"


def check_determinism(task: Task, seed: int, processes: Processes) -> Iterator[Finding]:
    """Play the same seed twice here, and twice elsewhere; play other seeds."""
    name = "determinism"
    first, again = digest(scalar_env(task), seed), digest(scalar_env(task), seed)
    if first != again:
        yield error(name, f"seed {seed} played twice differs", _SEED_ADVICE)
    one, other = processes.digests()
    if one != other:
        yield error(name, f"seed {seed} differs between processes", f"{_SEED_ADVICE}; never go by the order of a set")
    if first == again and one == other:
        yield ok(name, "the same seed gives the same play, here and in other processes")
    env, texts = scalar_env(task), set()
    for more in range(8):
        env.reset(seed=seed + more)
        texts.add(str(env.episodes.current[0].transcript))
    if len(texts) == 1 and len(env.episodes.prepare.transcripts) > 1:
        yield error("seeds", "8 seeds play the same transcript", "draw it with self.np_random, seeded by reset(seed)")
    else:
        yield ok("seeds", f"8 seeds play {len(texts)} different transcripts")


_SEED_ADVICE = "draw everything from np.random.default_rng(seed) or self.np_random, nothing from time, hash() or random"


def check_snapshot(task: Task, seed: int) -> Iterator[Finding]:
    """Take a snapshot, play on, restore it, and play the same again; and restore it elsewhere."""
    env, other = scalar_env(task), scalar_env(task)
    env.reset(seed=seed)
    list(trajectory(env, np.random.default_rng(seed), 7))
    state = env.get_state()
    played = list(trajectory(env, np.random.default_rng(seed), 50))
    for name, target in (("the same environment", env), ("another", other)):
        target.reset(seed=seed + 1)
        target.set_state(state)
        if not _same_play(played, list(trajectory(target, np.random.default_rng(seed), 50))):
            yield error(
                "snapshots",
                f"play after set_state(get_state()) in {name} differs",
                "let get_state return copies of everything that play changes, and set_state put all of it back",
            )
            return
    yield ok("snapshots", "play after a restored snapshot is the same to the last bit")


def check_reward_finite(task: Task, seed: int) -> Iterator[Finding]:
    """Play at random and look at each reward."""
    env = scalar_env(task)
    env.reset(seed=seed)
    rewards = np.array([reward for _, _, reward, _ in trajectory(env, np.random.default_rng(seed), 80)])
    if not np.isfinite(rewards).all():
        yield error("rewards", f"a reward is {rewards[~np.isfinite(rewards)][0]}", "return finite numbers only")
    else:
        yield ok("rewards", f"finite, {rewards.min():.2f} to {rewards.max():.2f} under random play")


def check_speed(task: Task, seed: int, seconds: float = 2.0) -> Iterator[Finding]:
    """Time play without the time spent in models."""
    env = task.make(16)
    env.reset(seed=seed)
    rng, slots = np.random.default_rng(seed), env.episodes.settings.slots
    encoder, engine = env.episodes.encoder, task.engine

    def in_models() -> float:
        return float(getattr(encoder, "seconds", 0.0)) + (engine.seconds if engine else 0.0)

    before, start, steps = in_models(), time.perf_counter(), 0
    while steps < 16 * 100 and time.perf_counter() - start < seconds * 4:
        env.step(random_actions(rng, env.action_masks(), slots))
        steps += 16
        if time.perf_counter() - start - (in_models() - before) > seconds:
            break
    total = time.perf_counter() - start
    own = max(total - (in_models() - before), 1e-9)
    found = (
        f"{steps / own:,.0f} steps/s outside the model ({own / total:.0%} of the time), {steps / total:,.0f} with it"
    )
    if steps / own < SLOW:
        change = (
            f"expected {SLOW}: profile step and generate (python -m cProfile); make transcripts once, not each step"
        )
        yield warning("speed", found, change)
    else:
        yield ok("speed", found)


def check_future(task: Task, seed: int) -> Iterator[Finding]:
    """Change what comes later in a transcript; what was seen before must stay the same."""
    name, looked = "no look ahead", 0
    env = scalar_env(task)
    episodes = env.episodes
    prepare = episodes.prepare
    known = prepare.transcripts
    longest = episodes.settings.max_steps or 10**9
    for index in range(min(3, len(known))):
        one, other = known[index], known[(index + 1) % len(known)]
        for cut in sorted({max(1, min(len(one), longest) * part // 4) for part in (1, 2, 3)}):
            later = other.turns[::-1][: max(1, len(one) // 3)]  # another length, too
            changed = replace(
                one,
                turns=(*one.turns[:cut], *later) if cut + len(later) > 1 else one.turns,
                probes=tuple(probe for probe in one.probes if probe.turn < cut),
                questions=(),
            )
            episodes.prepare = _with(prepare, (one, changed))
            looked += cut
            if (turn := _first_difference(env, cut, seed)) is not None:
                yield error(
                    name,
                    f"the observation at turn {turn} changes with turns from {cut} on",
                    "let observations and masks depend on turns that have arrived only; keep what comes later in info",
                )
                return
    yield ok(name, f"{looked} observations stay the same whatever comes later")


def _with(prepare: Preparer, transcripts: tuple[Transcript, ...]) -> Preparer:
    return Preparer(transcripts, prepare.engine, prepare.encoder, prepare.window, prepare.prompt)


def _first_difference(env: MemoryEnv, cut: int, seed: int) -> int | None:
    """Return the first turn before ``cut`` at which the two transcripts look different, if any."""
    plays = []
    for index in range(2):
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed, options={"transcript": index})
        seen = [(observation, env.action_masks(), 0.0, False)]
        if cut > 1:
            seen += trajectory(env, rng, cut - 1)
        plays.append(seen)
    for turn, (a, b) in enumerate(zip(*plays, strict=True)):
        if not _same(a[0], b[0], 0.0) or not np.array_equal(a[1], b[1]):
            return turn
    return None


def _same(a: dict[str, NDArray[np.float32]], b: dict[str, NDArray[np.float32]], tolerance: float = TOLERANCE) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


def _same_play(a: list[Seen], b: list[Seen]) -> bool:
    return all(
        _same(x[0], y[0], 0.0) and np.array_equal(x[1], y[1]) and x[2:] == y[2:] for x, y in zip(a, b, strict=True)
    )

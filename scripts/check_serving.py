"""Check that a served policy answers facts of the far past as often as its evaluation says.

Long procedural dialogues are played twice with the same policy and language model: by episodes in generate mode, and
through `stm-rl serve` over HTTP, where nothing of the future is known. Run:

    python scripts/check_serving.py --policy runs/demo --dialogues 4 --turns 300
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from stm_rl.lm import load_engine
from stm_rl.transcript import Transcript
from stm_rl.worlds import DialogueWorld, judge
from stm_rl_agents import Agent
from stm_rl_agents.serving import load_serving_agent
from stm_rl_envs import Episodes, MemorySettings

Texts = dict[int, str]
"""What the model wrote, by turn."""
FAR = 20
"""Turns between a fact and its question that make it one of the far past."""


def settings_of(memory: MemorySettings) -> MemorySettings:
    """Return the settings of the same memory where the model writes its turns itself."""
    return MemorySettings(slots=memory.slots, window=memory.window, reads=memory.reads, mode="generate")


def evaluated(agent: Agent, memory: MemorySettings, lm: str, transcripts: Sequence[Transcript]) -> list[Texts]:
    """Return what the model writes in episodes."""
    found = []
    for transcript in transcripts:
        episodes = Episodes([transcript], load_engine(lm), 1, settings_of(memory))
        row = np.zeros(1, np.int64)
        episodes.start(row, [0])
        done = False
        while not done:
            actions = agent.act(episodes.observe(), episodes.action_masks())
            done = bool(episodes.step(row, actions).terminated[0])
        found.append(dict(episodes.written[0]))
    return found


def served(client: httpx.Client, transcript: Transcript, memory: MemorySettings) -> tuple[Texts, list[dict[str, Any]]]:
    """Return what the server answers when it is told the turns that the model does not write, and its reports."""
    authored = settings_of(memory).authored(transcript)
    history: list[dict[str, str]] = []
    texts: Texts = {}
    reports = []
    for number, turn in enumerate(transcript.turns):
        text = turn.text
        if authored[number]:
            body = {"model": "served", "messages": history}
            answer = client.post("/v1/chat/completions", json=body, headers={"X-Session-Id": transcript.id or "check"})
            answer.raise_for_status()
            text = texts[number] = answer.json()["choices"][0]["message"]["content"]
            reports.append(answer.json()["memory"])
        history.append({"role": turn.speaker, "content": text})
    return texts, reports


def right(transcripts: Sequence[Transcript], texts: Sequence[Texts], window: int, apart: int = 0) -> tuple[int, int]:
    """Return how many questions were answered wholly, and how many there are.

    Args:
        transcripts: The dialogues.
        texts: What was written in each.
        window: Evidence in the window does not count.
        apart: Nor does evidence that is fewer turns back.
    """
    verdicts = [
        judge(transcript, probe.turn, own[probe.turn])
        for transcript, own in zip(transcripts, texts, strict=True)
        for probe in transcript.probes
        if probe.turn in own and min(probe.evidence) < probe.turn - max(window, apart)
    ]
    return sum(verdict.right == 1 and not verdict.wrong for verdict in verdicts), len(verdicts)


@contextmanager
def server(policy: str, lm: str, slots: int | None) -> Iterator[str]:
    """Run `stm-rl serve` in a process of its own; give its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stm_rl.cli", "serve", "--policy", policy, "--model", lm, "--port", "0"]
        command += ["--database", str(Path(folder) / "sessions.sqlite"), "--requests-per-minute", "1000000"]
        command += ["--slots", str(slots)] if slots else []
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.search(r"http://\S+?(?=[,\s])", said)
            if found is None:
                raise SystemExit(f"the server did not start: {said}{process.stderr.read()}")
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)


def median_of(metrics: str, name: str) -> float:
    """Return the upper end of the bucket, in milliseconds, that holds the median of a histogram."""
    buckets = re.findall(rf'^stm_rl_{name}_seconds_bucket{{le="([^"]+)"}} (\S+)$', metrics, re.MULTILINE)
    half = float(buckets[-1][1]) / 2
    return next(float(end) * 1000 for end, count in buckets if float(count) >= half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="salience", help="run folder, or name of a heuristic")
    parser.add_argument("--lm", default="tiny", help="language model that answers")
    parser.add_argument("--slots", type=int, help="slots of the memory, instead of the policy's")
    parser.add_argument("--dialogues", type=int, default=4)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--seed", type=int, default=10_000, help="seed of the first dialogue")
    options = parser.parse_args()
    agent, memory = load_serving_agent(options.policy, slots=options.slots)
    world = DialogueWorld(turns=options.turns, min_gap=4, max_gap=40)
    transcripts = [world.generate(options.seed + number) for number in range(options.dialogues)]
    expected = evaluated(agent, memory, options.lm, transcripts)
    found, reports = [], []
    with (
        server(options.policy, options.lm, options.slots) as address,
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        for transcript in transcripts:
            texts, own = served(client, transcript, memory)
            found.append(texts)
            reports.append(own)
        metrics = client.get("/metrics").text
    same = sum(two.get(turn) == text for one, two in zip(expected, found, strict=True) for turn, text in one.items())
    sent = [report["tokens_sent"] for own in reports for report in own]
    quarters = [
        float(np.mean([r["tokens_sent"] for own in reports for r in own[len(own) * q // 4 : len(own) * (q + 1) // 4]]))
        for q in range(4)
    ]
    result: dict[str, Any] = {
        "policy": options.policy,
        "slots": memory.slots,
        "window": memory.window,
        "turns": options.turns,
        "dialogues": options.dialogues,
        "answers_equal": same / sum(map(len, expected)),
        "tokens_sent": {"mean_by_quarter": quarters, "most": max(sent)},
        "tokens_full_history_at_end": [own[-1]["tokens_full_history"] for own in reports],
        "overhead_median_ms_at_most": median_of(metrics, "overhead"),
        "policy_median_ms_at_most": median_of(metrics, "policy"),
        "store_median_ms_at_most": median_of(metrics, "store"),
    }
    passed = True
    for name, apart in (("beyond_window", 0), (f"{FAR}_turns_back", FAR)):
        told, count = right(transcripts, found, memory.window, apart)
        predicted, _ = right(transcripts, expected, memory.window, apart)
        shares = {"served": told / count, "evaluated": predicted / count, "questions": count}
        result[name] = shares
        passed &= told >= 0.9 * predicted
    result["passed"] = passed
    json.dump(result, sys.stdout, indent=1)
    print()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()

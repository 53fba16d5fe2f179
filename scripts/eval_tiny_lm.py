#!/usr/bin/env python3
"""Measure what a small language model does with turns read from memory, on held-out transcripts.

    python scripts/eval_tiny_lm.py                       # the embedded model
    python scripts/eval_tiny_lm.py --model FOLDER --worlds story recall --transcripts 400 --json

Every figure is a gain in nats: log p(turn | reads, window) - log p(turn | window).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from stm_rl.lm import CausalLM, PromptFormat
from stm_rl.lm.prompt import line, target
from stm_rl.transcript import Transcript, Turn
from stm_rl.worlds import DialogueWorld, RecallWorld, ScreenplayWorld, ScriptWorld, StoryWorld

FORMAT = PromptFormat()
WORLDS: dict[str, type[ScriptWorld]] = {
    "dialogue": DialogueWorld,
    "story": StoryWorld,
    "screenplay": ScreenplayWorld,
    "recall": RecallWorld,
}
SPLITS = {
    "training entities and templates": {},
    "held-out entities": {"entities": "heldout"},
    "held-out entities and templates": {"entities": "heldout", "templates": "heldout"},
}


class Scorer:
    """Collects questions, scores them in one go."""

    def __init__(self, lm: CausalLM, window: int) -> None:
        self.lm, self.window = lm, window
        self.rows: dict[str, list[tuple[str, str, str]]] = {}

    def ask(self, name: str, transcript: Transcript, turn: int, reads: list[Turn]) -> None:
        """Ask for the gain of ``reads`` at ``turn``."""
        last = transcript.turns[turn]
        window = [line(t) for t in transcript.turns[max(0, turn - self.window) : turn]]
        self.rows.setdefault(name, []).append(
            (
                FORMAT.context(map(line, reads), window, last.speaker),
                FORMAT.context([], window, last.speaker),
                target(last),
            )
        )

    def gains(self) -> dict[str, np.ndarray]:
        """Return the gains asked for, by name."""
        result = {}
        for name, rows in self.rows.items():
            contexts, plain, targets = zip(*rows, strict=True)
            result[name] = self.lm.score(contexts, targets) - self.lm.score(plain, targets)
        return result


def measure(
    lm: CausalLM, world: ScriptWorld, transcripts: int, window: int = 2, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return for each kind of read the mean, standard deviation and number of gains."""
    rng = np.random.default_rng(seed)
    scorer = Scorer(lm, window)
    episodes = [world.generate(10**6 + seed + i) for i in range(transcripts)]
    for number, transcript in enumerate(episodes):
        other = episodes[(number + 1) % len(episodes)]
        dependent = {probe.turn: probe for probe in transcript.probes}
        for turn in range(1, len(transcript)):
            start = turn - window
            past = [i for i in range(max(0, start)) if transcript.turns[i].writable]
            probe = dependent.get(turn)
            if probe is None:
                if past:
                    scorer.ask(
                        "other turn, 1 past turn read",
                        transcript,
                        turn,
                        [transcript.turns[int(rng.choice(past))]],
                    )
                    pair = sorted(rng.choice(past, 2)) if len(past) > 1 else past
                    scorer.ask(
                        "other turn, 2 past turns read",
                        transcript,
                        turn,
                        [transcript.turns[int(i)] for i in pair],
                    )
                continue
            needed = [i for i in probe.evidence if i < start]
            if len(needed) < len(probe.evidence):
                continue
            evidence = [transcript.turns[i] for i in needed]
            hops = "1 hop" if len(needed) == 1 else "2 hops"
            scorer.ask(f"dependent turn, needed read ({hops})", transcript, turn, evidence)
            unneeded = [i for i in past if i not in needed and i not in probe.stale]
            mixed = sorted([*needed, int(rng.choice(unneeded))]) if unneeded else needed
            scorer.ask(
                "dependent turn, needed and unneeded read",
                transcript,
                turn,
                [transcript.turns[i] for i in mixed],
            )
            if unneeded:
                scorer.ask(
                    "dependent turn, unneeded read",
                    transcript,
                    turn,
                    [transcript.turns[int(rng.choice(unneeded))]],
                )
            stale = [i for i in probe.stale if i < start]
            if stale:
                scorer.ask("dependent turn, stale read", transcript, turn, [transcript.turns[stale[-1]]])
                both = sorted([*needed, stale[-1]])
                scorer.ask(
                    "dependent turn, stale and needed read",
                    transcript,
                    turn,
                    [transcript.turns[i] for i in both],
                )
            foreign = [p for p in other.probes if p.answer != probe.answer]
            if foreign:
                scorer.ask("dependent turn, foreign read", transcript, turn, [other.turns[foreign[0].evidence[0]]])
    for transcript in episodes[: transcripts // 4]:  # the whole past as ordinary turns
        for probe in transcript.probes:
            turn = transcript.turns[probe.turn]
            full = FORMAT.context([], map(line, transcript.turns[: probe.turn]), turn.speaker)
            plain = FORMAT.context([], map(line, transcript.turns[probe.turn - window : probe.turn]), turn.speaker)
            scorer.rows.setdefault("dependent turn, full context", []).append((full, plain, target(turn)))
    return {
        name: {"mean": float(gain.mean()), "std": float(gain.std()), "n": len(gain)}
        for name, gain in sorted(scorer.gains().items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="model folder or id (default: the embedded model)")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="worlds to measure in")
    parser.add_argument("--transcripts", type=int, default=200, help="transcripts of each world and split")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = CausalLM.load(args.model)
    results = {
        f"{name}, {split}": measure(lm, WORLDS[name](**settings), args.transcripts)
        for name in args.worlds
        for split, settings in SPLITS.items()
    }
    if args.json:
        print(json.dumps(results, indent=1))
        return
    for name, rows in results.items():
        print(f"\n{name}")
        for row, value in rows.items():
            print(f"  {row:45s} {value['mean']:+.3f} nats  (std {value['std']:.3f}, n {value['n']})")


if __name__ == "__main__":
    main()

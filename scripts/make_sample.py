#!/usr/bin/env python3
"""Write the small sample that stm_rl/Transcript-v0 plays when it is given nothing: a few transcripts of three worlds.

python scripts/make_sample.py
"""

from __future__ import annotations

from dataclasses import replace

from stm_rl.readers import write_messages
from stm_rl.transcript import Transcript, Turn
from stm_rl.worlds import DialogueWorld, ScreenplayWorld, StoryWorld
from stm_rl_envs.transcript import sample_path

EACH = 12
FIRST_SEED = 4 * 10**8
"""Beyond the seeds of every split."""


def plain(transcript: Transcript) -> Transcript:
    """Return the transcript as real data come: without what only a world knows, but with its evidence."""
    return replace(transcript, turns=tuple(Turn(turn.text, turn.speaker) for turn in transcript.turns))


def main() -> None:
    worlds = (DialogueWorld(), StoryWorld(), ScreenplayWorld())
    transcripts = [plain(world.generate(FIRST_SEED + i)) for i in range(EACH) for world in worlds]
    count = write_messages(transcripts, sample_path())
    print(f"wrote {count} transcripts to {sample_path()}")


if __name__ == "__main__":
    main()

"""An episode as text for people."""

from __future__ import annotations

from stm_rl.memory import EMPTY
from stm_rl_envs.episodes import Episodes, StepResult


def render_step(episodes: Episodes, last: StepResult | None, row: int = 0) -> str:
    """Return window, memory and the last step of one episode as lines of text."""
    if not episodes.current:
        return "(no episode yet)"
    item, step = episodes.current[row], int(episodes.step_index[row])
    lines = [f"{item.transcript.id or 'transcript'} · turn {step} of {len(item) - 1}"]
    start = max(0, step + 1 - episodes.settings.window)
    lines += ["window"] + [f"  {turn:3d}  {item.lines[turn]}" for turn in range(start, step + 1)]
    lines.append("memory")
    for slot, turn in enumerate(episodes.memory.turn[row], start=1):
        lines.append(f"  [{slot}]  " + ("-" if turn == EMPTY else f"{item.lines[turn]}  (turn {turn})"))
    if last is not None:
        position = int((last.rows == row).argmax())
        write, reads = int(last.writes[position]), last.reads[position]
        lines.append("last step")
        lines.append(f"  write  {f'turn {step - 1} into slot {write}' if write else '-'}")
        lines.append("  read   " + (", ".join(f"turn {turn}" for turn in reads) or "-"))
        terms = "  ".join(f"{name} {value[position]:+.2f}" for name, value in last.terms.items())
        lines.append(f"  reward {last.reward[position]:+.2f}  ({terms})")
    return "\n".join(lines)

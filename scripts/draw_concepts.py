#!/usr/bin/env python3
"""Draw the figures of docs/concepts.md from one real dialogue, scored by the embedded model.

    python scripts/draw_concepts.py

Plain SVGs in docs/figures/. They follow the light or dark scheme of whoever looks, on a background of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from stm_rl import Turn
from stm_rl.lm import load_engine
from stm_rl.lm.prompt import PromptFormat, line, target
from stm_rl.worlds import DialogueWorld

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
TURNS: Sequence[Turn] = DialogueWorld(turns=14, min_gap=4, max_gap=8).generate(3).turns[:10]
WINDOW, NOW, FACT, OTHER = 2, 8, 0, 2
"""Turns of the window; the turn that has just arrived; the turn it needs, and one that it does not."""
PROMPT = PromptFormat()

STYLE = """
svg { font: 14px system-ui, sans-serif }
.page { fill: #fbfbf8 } .box { fill: #fff; stroke: #8a8f98 } text { fill: #1d2129 } .dim { fill: #5d6470 }
.old { fill: #eceef1; stroke: #c4c8cf } .window { fill: #d7ebf7; stroke: #0072b2 }
.slot { fill: #fdebc8; stroke: #c77700 }
.good { fill: #cdeee2; stroke: #008060 } .line { fill: none; stroke: #5d6470; stroke-width: 1.6 } .tip { fill: #5d6470 }
.bold { font-weight: 600 } .code { font-family: ui-monospace, monospace; font-size: 13px } .heat { fill: #c77700 }
.ring { fill: none; stroke: #0072b2; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) {
.page { fill: #1d2129 } .box { fill: #272c36; stroke: #8a8f98 } text { fill: #eceef1 } .dim { fill: #aab1bd }
.old { fill: #2d323c; stroke: #525966 } .window { fill: #143d57; stroke: #56b4e9 }
.slot { fill: #543a0c; stroke: #e69f00 }
.good { fill: #0f4636; stroke: #2cc295 } .line { stroke: #aab1bd } .tip { fill: #aab1bd } .heat { fill: #e69f00 }
.ring { stroke: #56b4e9 }
}"""


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a whole figure."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>' + "\n".join(parts) + "</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, words: str = "", style: str = "") -> str:
    """Return a rectangle with a line of text in it."""
    inside = text(x + 10, y + height / 2 + 5, words, style) if words else ""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>{inside}'


def arrow(path: str) -> str:
    """Return a line with a tip at its end."""
    return f'<path class="line" d="{path}" marker-end="url(#tip)"/>'


def memory() -> str:
    """Return the figure of one step: window, slots, write, read."""
    left, right, wide = 400, 540, 420
    parts = [text(20, 32, "Turns of the transcript", "bold"), text(right, 32, "Memory, 4 slots", "bold")]
    for index, turn in enumerate(TURNS[: NOW + 1]):
        seen = index > NOW - WINDOW
        parts.append(box(20, 46 + 34 * index, left, 28, "window" if seen else "old", f"{index}  {line(turn)}"))
    held = {0: FACT, 1: OTHER}
    for slot in range(4):
        words = f"{slot + 1}  {line(TURNS[held[slot]])}" if slot in held else f"{slot + 1}  (empty)"
        parts.append(box(right, 46 + 34 * slot, wide, 28, "slot" if slot in held else "box", words))
        if slot in held:
            start = 60 + 34 * held[slot]
            parts.append(arrow(f"M420 {start} C480 {start} 480 {60 + 34 * slot} 532 {60 + 34 * slot}"))
            parts.append(text(430, start - 8 if slot == 0 else start + 20, "write", "dim"))
    parts.append(text(right, 218, "What the language model sees", "bold"))
    window = [line(turn) for turn in TURNS[NOW - WINDOW + 1 : NOW + 1]]
    lines = PROMPT.context([line(TURNS[FACT])], window, TURNS[NOW + 1].speaker).split("\n")
    parts.append(box(right, 230, wide, 22 * len(lines) + 18, "box"))
    parts += [text(right + 12, 252 + 22 * row, words, "code") for row, words in enumerate(lines)]
    parts += [arrow("M960 60 C1006 60 1006 246 966 246"), text(1000, 150, "read", "dim")]
    top = 46 + 34 * (NOW - WINDOW + 1)
    parts += [arrow(f"M420 {top + 30} H532"), text(430, top + 20, "window", "dim")]
    parts.append(text(right, 366, f"What comes next: {TURNS[NOW + 1].text}", "dim"))
    return svg(1040, 386, "One step: turns, window, memory of slots, reads, and the prompt", parts)


def gain(scores: tuple[float, float]) -> str:
    """Return the figure of the coherence gain: the same next turn with and without the read."""
    window = [line(turn) for turn in TURNS[NOW - WINDOW + 1 : NOW + 1]]
    without, reading = map(number, scores)
    parts = [text(20, 32, f"How surprising is the true next turn, “{TURNS[NOW + 1].text}”?", "bold")]
    for row, (name, reads, score) in enumerate(
        (("window only", [], scores[0]), ("reads and window", [line(TURNS[FACT])], scores[1]))
    ):
        top = 52 + 128 * row
        lines = PROMPT.context(reads, window, TURNS[NOW + 1].speaker).split("\n")
        parts.append(box(20, top, 460, 22 * 4 + 18, "box"))
        parts += [text(32, top + 22 + 22 * index, words, "code") for index, words in enumerate(lines)]
        parts += [text(520, top + 24, name, "bold"), text(520, top + 88, f"log p = {number(score)} nats", "dim")]
        parts.append(box(520, top + 36, 470 * score / min(scores), 30, "good" if row else "window"))
    parts.append(
        text(520, 316, f"coherence gain = {reading} − ({without}) = {number(scores[1] - scores[0])} nats", "bold")
    )
    parts.append(text(20, 316, "The bar is −log p: shorter is less surprising.", "dim"))
    return svg(1040, 338, "Coherence gain: log-likelihood of the next turn with reads minus without", parts)


def hindsight(table: dict[tuple[int, int], float]) -> str:
    """Return the figure of hindsight labels: the gain of every earlier turn at every step."""
    left, top, size = 440, 84, 46
    first, last, most = WINDOW + 1, len(TURNS) - 1, max(table.values())
    parts = [
        text(20, 32, "Which earlier turn would have helped to predict which later one? Gain in nats.", "bold"),
        text(left - 16, top - 10, "turn to predict:", "dim", "end"),
    ]
    for later in range(first, last + 1):
        parts.append(text(left + size * (later - first) + 21, top - 10, str(later), "dim", "middle"))
    for turn in range(last - WINDOW):
        parts.append(text(left - 16, top + size * turn + 27, f"{turn}  {line(TURNS[turn])}", "", "end"))
    for (turn, later), value in table.items():
        x, y = left + size * (later - first), top + size * turn
        where = f'x="{x}" y="{y}" width="{size - 3}" height="{size - 3}" rx="3"'
        parts.append(f'<rect class="box" {where}/>')
        parts.append(f'<rect class="heat" {where} opacity="{max(value, 0) / most * 0.65:.2f}"/>')
        parts.append(text(x + 21, y + 27, number(value, 1), "", "middle"))
        if value == most:
            parts.append(f'<rect class="ring" {where}/>')
    right = left + size * (last - first + 1) + 24
    later = f"Turn {last}: {TURNS[last].text}"
    parts += [text(right, top + 20, later), text(right, top + 40, f"Turn {FACT} gains most: keep it.", "dim")]
    return svg(
        1040, top + size * (last - WINDOW) + 14, "Hindsight labels: gain of each earlier turn at each step", parts
    )


def number(value: float, digits: int = 2) -> str:
    """Return a number with a true minus and no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def main() -> None:
    engine = load_engine("tiny")

    def score(later: int, reads: Sequence[int]) -> float:
        window = map(line, TURNS[max(later - WINDOW, 0) : later])
        context = PROMPT.context([line(TURNS[turn]) for turn in reads], window, TURNS[later].speaker)
        return float(engine.score([context], [target(TURNS[later])])[0])

    steps = range(WINDOW + 1, len(TURNS))
    table = {
        (turn, later): score(later, [turn]) - score(later, []) for later in steps for turn in range(later - WINDOW)
    }
    figures = {
        "memory": memory(),
        "gain": gain((score(NOW + 1, []), score(NOW + 1, [FACT]))),
        "hindsight": hindsight(table),
    }
    FIGURES.mkdir(exist_ok=True)
    for name, figure in figures.items():
        (FIGURES / f"{name}.svg").write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which of the tokens that a server echoes are the target's, by what the server shows of their text."""

from __future__ import annotations

import re
from collections.abc import Sequence

BROKEN = "\ufffd"
"""What servers show for bytes that are not whole letters, if they show anything."""
PIECE = re.compile(f"{BROKEN}|[^{BROKEN}]+")
FRONT = 2
"""Most special tokens in front of a text."""


def target_tokens(tokens: Sequence[str], context: str, target: str) -> range | None:
    """Return the positions of the target's tokens among those that a server echoes for ``context + target``.

    They are those from the one that holds the target's first letter to the end of the text. The server's
    ``text_offset`` is not used: vLLM counts special tokens in it that the text does not have, and SGLang states none.

    Args:
        tokens: The texts of the tokens. There may be special tokens in front of the text and one written token after
            it. Letters split over several tokens may be shown as U+FFFD, not at all, or with the last of their tokens;
            where they are not shown, each of the tokens is taken to be one byte.
        context: Text in front of the target.
        target: A text that is not blank.

    Returns:
        The positions, or none if the tokens are not those of the text.
    """
    data = (context + target).encode()
    begin = len(data) - len(target.lstrip().encode())
    for front in range(FRONT + 1):
        if ends := _ends(tokens[front:], data):
            first = next(number for number, end in enumerate(ends) if end > begin)
            return range(front + first, front + len(ends))
    return None


def _ends(tokens: Sequence[str], data: bytes) -> list[int]:
    """Return where in ``data`` each token ends, up to the one that ends it; nothing if they do not match it."""
    pieces = [(number, piece) for number, token in enumerate(tokens) for piece in PIECE.findall(token) or [""]]
    ends: list[int] = []  # of the pieces
    place = split = 0  # the pieces of split letters are placed when the next whole one is
    hidden = True
    for number, piece in pieces:
        if place == len(data):
            break
        if piece in ("", BROKEN):
            hidden = not piece and (hidden or not split)
            split += 1
            continue
        letters = piece.encode()
        start = _start(letters, data, place, split, hidden)
        if start < 0:
            if number + 1 < len(tokens):
                return []
            break  # the token that the server wrote
        if start == place:  # split letters are shown with this piece
            ends += [place + next((i + 1 for i, byte in enumerate(letters) if byte > 127), 0)] * split
        else:
            ends += _spread(place, start, split)
        place = start + len(letters)
        ends.append(place)
        split = 0
    if place < len(data):
        if not 0 < len(data) - place <= 4 * split:
            return []
        ends += _spread(place, len(data), split)
    return list(dict(zip((number for number, _ in pieces), ends, strict=False)).values())


def _start(letters: bytes, data: bytes, place: int, split: int, hidden: bool) -> int:
    """Return where the next whole piece starts, at or after ``place``; -1 if nowhere.

    Args:
        letters: The piece.
        data: The text.
        place: Where the last whole piece ends.
        split: How many pieces of split letters are between them.
        hidden: None of them is shown.
    """
    if (hidden or not split) and data.startswith(letters, place):
        return place
    if not split:  # some servers leave out the space in front of a word
        start = len(data) - len(data[place:].lstrip())
        return start if data.startswith(letters, start) else -1
    return data.find(letters, place + split, place + 4 * split + len(letters))


def _spread(place: int, stop: int, split: int) -> list[int]:
    """Return where pieces of split letters end that lie between two places: each has a byte at least."""
    return [min(place + number, stop) for number in range(1, split)] + [stop] * (split > 0)

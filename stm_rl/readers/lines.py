"""Files and their lines, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.records import Place

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLineError(StmError):
    """A line that is not text.

    Attributes:
        text: What it would be without the bytes that are not.
    """

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def numbered_lines(path: Path) -> Iterator[tuple[int, str | StmError]]:
    """Yield the lines of a UTF-8 file with their numbers from 1, without line endings.

    Only a line feed ends a line: Unicode knows more line breaks, and JSON strings may hold them. A line
    that is not UTF-8 or holds a NUL byte is an error, as is (last) a file that cannot be read.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, _decode(raw, Place(path, number))
    except OSError as error:
        yield number + 1, unreadable(path, error)


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file that is one record.

    Raises:
        StmError: At the first line that is an error, see `numbered_lines`.
    """
    lines = []
    for _, line in numbered_lines(path):
        if isinstance(line, StmError):
            raise line
        lines.append(line)
    return lines


def unreadable(path: Path, error: OSError) -> StmError:
    """Return (not raise) the error of a file that cannot be opened or read on."""
    return StmError(
        f"{path}: cannot be read ({error.strerror or error}); expected a readable file; "
        "check the path and its permissions"
    )


def _decode(raw: bytes, place: Place) -> str | StmError:
    if place.line == 1:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadLineError(str(not_utf8(place, raw[error.start], error.start)), raw.decode("utf-8", "replace"))
    if "\0" in text:
        return BadLineError(str(has_nul(place)), text)
    return text.rstrip("\r\n")


def not_utf8(place: Place, byte: int, index: int) -> StmError:
    """Return (not raise) the error of a line whose byte `index` (from 0) is not UTF-8."""
    return place.error(
        f"byte 0x{byte:02x} at byte {index + 1} of the line is not UTF-8; "
        "expected UTF-8 text; convert the file, for example with iconv"
    )


def has_nul(place: Place) -> StmError:
    """Return (not raise) the error of a line with a NUL byte."""
    return place.error("holds a NUL byte; expected text; remove the byte or convert the file to UTF-8")


def no_transcript(path: Path) -> StmError:
    """Return (not raise) the error of a file that was read to its end without finding a transcript."""
    return StmError(f"{path}:1: holds no transcript; expected at least one of two turns or more; give a file with text")


def files_of(path: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a glob pattern, by name; a file itself.

    Raises:
        StmError: If there is none.
    """
    files = sorted(file for file in path.glob(pattern) if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise StmError(f"{path}: holds no {pattern}; expected a folder with such files; give that folder or one file")
    return files

"""Pages that a script writes: written, or checked to be what the script would write now."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(path: Path, page: Callable[[], str], description: str | None) -> None:
    """Write a page, or with ``--check`` on the command line exit with a message if it is stale.

    Args:
        path: The page.
        page: Returns what shall be in it.
        description: What ``--help`` says of the script.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the page is stale; write nothing")
    args = parser.parse_args()
    text = page()
    if not args.check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path.name} is stale; run: python scripts/{Path(sys.argv[0]).name}")

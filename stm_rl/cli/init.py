"""``stm-rl init``."""

from __future__ import annotations

from pathlib import Path

from stm_rl.plugins import write_package


def init_package(kind: str, name: str, out: Path) -> None:
    """Write a package and say what to do next."""
    files = write_package(kind, name, out)
    for file in files:
        print(f"wrote {file}")
    print(f"next: pip install -e {out / name}, then read {out / name / 'README.md'}")

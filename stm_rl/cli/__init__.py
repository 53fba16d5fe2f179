"""The command line: ``stm-rl``."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> None:
    """Run the command line; bad input gives one line and exit status 2."""
    from stm_rl.cli.app import app
    from stm_rl.errors import StmError

    try:
        app()
    except StmError as error:
        print(f"stm-rl: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `stm-rl ... | head`
        sys.exit(1)

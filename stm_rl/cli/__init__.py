"""The command line: ``stm-rl``."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("stm_rl.readers").addHandler(logging.NullHandler())  # commands say themselves what was skipped


def main() -> None:
    """Run the command line; bad input gives one line and exit status 2."""
    from stm_rl.errors import StmError

    try:
        from stm_rl.cli.app import app

        app()
    except StmError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `stm-rl ... | head`
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path, its permissions and the space left")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    print("stm-rl:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)

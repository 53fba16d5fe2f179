"""Optional packages: what is missing is said before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from stm_rl.errors import StmError


def check_extra(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise StmError if a package is missing.

    Args:
        what: What needs them and a verb, such as ``serving needs``.
        packages: Names under which they are imported.
        extra: The extra of stm-rl that installs them.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise StmError(f"{what} {', '.join(missing)}; pip install 'stm-rl[{extra}]'")

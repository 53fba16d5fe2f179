"""Values written as text, on the command line and in brackets behind reward terms."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import yaml

from stm_rl.errors import StmError


def parse_value(text: str, what: str) -> Any:
    """Return what ``text`` stands for as YAML; a number such as ``1e-3``, which YAML takes for a word, is a number.

    Args:
        text: The value.
        what: What it is, for errors.

    Raises:
        StmError: It is malformed.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StmError(f"{what} has a malformed value; expected a number or a word: slots=8") from error
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value

"""Packages of your own: environments and rewards that need nothing changed here."""

from stm_rl.plugins.scaffold import KINDS, write_package

__all__ = ["KINDS", "write_package"]

"""Checks of what users bring: findings, and the checks of transcripts."""

from stm_rl.validation.findings import ERROR, LEVELS, OK, WARNING, Check, Finding, error, ok, run_checks, warning

__all__ = ["ERROR", "LEVELS", "OK", "WARNING", "Check", "Finding", "error", "ok", "run_checks", "warning"]

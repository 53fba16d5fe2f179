"""A report on runs: one HTML file with curves, tables, memory timelines and episodes."""

from stm_rl.report.build import Report, make_report
from stm_rl.report.page import render
from stm_rl.report.tables import Roles

__all__ = ["Report", "Roles", "make_report", "render"]

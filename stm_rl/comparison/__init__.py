"""Text continued with and without memory, compared."""

from stm_rl.comparison.continuation import FILE, Continuation, read_continuations, write_continuations
from stm_rl.comparison.measures import MEASURES, Measures
from stm_rl.comparison.statistics import compare

__all__ = ["FILE", "MEASURES", "Continuation", "Measures", "compare", "read_continuations", "write_continuations"]

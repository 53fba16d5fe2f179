"""Memory stores."""

from stm_rl.memory.slots import EMPTY, SlotMemory

__all__ = ["EMPTY", "SlotMemory"]

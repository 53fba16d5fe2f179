"""Memory stores: slots that hold turns, and neural memories (:class:`MemoryCore`) that hold what they learn to hold."""

from stm_rl.memory.attention import AttentionCore
from stm_rl.memory.core import MemoryCore, State, SteppedCore, detached, state_bytes
from stm_rl.memory.hashed import HashedCore
from stm_rl.memory.linear import LinearCore
from stm_rl.memory.linked import LinkedCore
from stm_rl.memory.matrix import MatrixCore
from stm_rl.memory.recurrent import AttentiveCore, GRUCore, LSTMCore
from stm_rl.memory.slots import EMPTY, SlotMemory

CORES: dict[str, type[MemoryCore]] = {
    "lstm": LSTMCore,
    "gru": GRUCore,
    "attentive": AttentiveCore,
    "linear": LinearCore,
    "attention": AttentionCore,
    "matrix": MatrixCore,
    "hashed": HashedCore,
    "linked": LinkedCore,
}
"""Every neural memory by the name it has on the command line and in files."""

__all__ = [
    "CORES",
    "EMPTY",
    "AttentionCore",
    "AttentiveCore",
    "GRUCore",
    "HashedCore",
    "LSTMCore",
    "LinearCore",
    "LinkedCore",
    "MatrixCore",
    "MemoryCore",
    "SlotMemory",
    "State",
    "SteppedCore",
    "detached",
    "state_bytes",
]

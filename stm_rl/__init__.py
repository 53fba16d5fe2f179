"""stm-rl: environments and agents that teach a language model what to remember.

Importing the package registers its environments with Gymnasium.
"""

from stm_rl.errors import StmError
from stm_rl.registration import register_envs
from stm_rl.transcript import Probe, Question, Transcript, Turn

__version__ = "0.1.0"
__all__ = ["Probe", "Question", "StmError", "Transcript", "Turn", "__version__"]

register_envs()

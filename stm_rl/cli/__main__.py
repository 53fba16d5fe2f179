"""``python -m stm_rl.cli``; under ``accelerate launch -m stm_rl.cli`` process 0 runs it and the others score for it.

``finetune`` runs in all of them: they train together.
"""

from __future__ import annotations

import os
import sys

from stm_rl.cli import _fail, main
from stm_rl.errors import StmError

if __name__ == "__main__":
    trains = sys.argv[1:2] == ["finetune"]  # TRL divides training among all processes
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not trains:  # set by accelerate and torchrun
        from stm_rl.lm.sharded import run

        try:
            run(main)
        except StmError as error:
            _fail(str(error))
    else:
        main()

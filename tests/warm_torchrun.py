"""torchrun, whose processes are forked from one that has loaded torch; to be started by WarmPopen itself.

They are torchrun's own children, which it starts again, signals and waits for, as ever. What looks at the start of a
job's processes runs `python -m torch.distributed.run` itself.
"""

import os
import socket
from pathlib import Path

import warm


class Copy(warm.WarmParent):
    """A copy of this process, which has torch from its own parent, and no second thread yet."""

    def start(self):
        """Fork it."""
        self.connection, other_end = socket.socketpair()
        self.process = os.fork()
        if self.process == 0:
            self.connection.close()
            warm.serve(other_end)
        other_end.close()


class Started(warm.WarmPopen):
    """A process of the job. If there is a folder of the name NUMBERS, it gets a file with the process's number."""

    def __init__(self, args, env, **settings):
        # The program would lift torchrun's limit before it loads torch; here torch is loaded, without a limit
        super().__init__(args, env={name: text for name, text in env.items() if name != "OMP_NUM_THREADS"}, **settings)
        if numbers := env.get("NUMBERS"):
            Path(numbers, env["RANK"]).write_text(str(self.pid))


if __name__ == "__main__":
    warm.warm_parent = Copy()
    warm.warm_parent.start()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = Started
    run.main()

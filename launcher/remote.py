"""A `ringlet` that another host's launcher has started over ssh (hosts/ssh.py).

Its standard input brings the environment in the first line and then signals, one a line. When the
input ends, the connection or the launcher is gone, and this process ends with its workers.
"""

import json
import os
import signal
import sys
import threading
from typing import IO

from ringlet.launcher import cli


def _pass_signals_on(lines: IO[bytes]) -> None:
    for line in lines:
        os.kill(os.getpid(), int(json.loads(line)["signal"]))
    os.kill(os.getpid(), signal.SIGKILL)  # the workers' guards see it, and end too


def main() -> None:
    """Run the command line `ringlet ARGUMENTS...` for the launcher on the other host."""
    lines = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - open to the end
    os.environ.update(json.loads(lines.readline())["environment"])
    threading.Thread(
        target=_pass_signals_on, args=[lines], name="ringlet-signals", daemon=True
    ).start()
    cli.main([*sys.argv[1:2], "--announce", *sys.argv[2:]])


if __name__ == "__main__":
    main()

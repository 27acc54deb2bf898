"""A `ringlet` that another host's launcher has started over ssh (hosts/ssh.py).

Its standard input brings the environment in the first line and then, one a line, signals and which
hosts are gone. When the input ends, the connection or the launcher is gone, and this process ends
with its workers.
"""

import json
import os
import signal
import sys
import threading
from typing import IO

from ringlet.launcher import cli
from ringlet.launcher.hosts.node import gone


def _listen(lines: IO[bytes]) -> None:
    for line in lines:
        notice = json.loads(line)
        if "gone" in notice:
            gone.add(notice["gone"])
        else:
            os.kill(os.getpid(), int(notice["signal"]))
    os.kill(os.getpid(), signal.SIGKILL)  # the workers' guards see it, and end too


def main() -> None:
    """Run the command line `ringlet ARGUMENTS...` for the launcher on the other host."""
    lines = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - open to the end
    os.environ.update(json.loads(lines.readline())["environment"])
    threading.Thread(target=_listen, args=[lines], name="ringlet-remote", daemon=True).start()
    cli.main([*sys.argv[1:2], "--announce", *sys.argv[2:]])


if __name__ == "__main__":
    main()

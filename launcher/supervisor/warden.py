"""The warden: a program that ends what a killed launcher has left (see process.Warden).

Its input names process groups, sockets and folders, each ended by a zero byte; what is named twice
has gone, and after DONE all has. It imports little at first, since every job starts it.
"""

import os
import sys

DONE = b"done"


def main() -> None:
    """Wait for the launcher's end; then end and remove what is left."""
    if os.fork():
        os._exit(0)
    *things, end = sys.stdin.buffer.read().split(b"\0")
    left: set[bytes] = set()
    for thing in things if end != DONE else ():
        left ^= {thing}
    for thing in sorted(left, key=bytes.isdigit, reverse=True):  # processes first
        try:
            _end(thing)
        except OSError:  # it has gone
            continue


def _end(thing: bytes) -> None:
    import shutil
    import signal
    from pathlib import Path

    path = Path(os.fsdecode(thing))
    if thing.isdigit():
        os.killpg(int(thing), signal.SIGKILL)
    elif path.is_dir():
        shutil.rmtree(path)
    else:  # a socket for `ringlet ps`, and the folder after the last
        path.unlink()
        path.parent.rmdir()


if __name__ == "__main__":
    main()

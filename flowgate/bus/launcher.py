"""Runs a program that ends when the gateway does, even if that is killed.  Run by path: it imports nothing of ours.

``launcher.py PARENT PROGRAM ARGUMENT…``.  On Linux the kernel is asked to send SIGTERM when the parent dies, and this
process becomes the program.  Elsewhere it stays and watches its standard input, a pipe that only the parent holds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 8  # less than the gateway's own: once it kills this process, nobody watches the program


def become(parent: int, command: list[str]) -> None:
    """Turn into ``command``, bound to the life of ``parent``."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    if os.getppid() != parent:  # it died before the request was in force
        sys.exit(1)
    os.execv(command[0], command)


def watch(command: list[str]) -> int:
    """Run ``command`` until it ends, SIGTERM comes, or standard input ends.

    :returns: its exit status.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    end = threading.Event()

    def parent_gone() -> None:
        while os.read(0, 512):
            pass
        end.set()

    def ender() -> None:
        end.wait()
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()

    signal.signal(signal.SIGTERM, lambda *_: end.set())
    for work in (parent_gone, ender):
        threading.Thread(target=work, daemon=True).start()
    return child.wait()


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    os.setsid()  # Ctrl-C in a terminal is for the gateway alone, which still needs the program while it stops
    if sys.platform == "linux":
        become(parent, command)
    sys.exit(watch(command))


if __name__ == "__main__":
    main()

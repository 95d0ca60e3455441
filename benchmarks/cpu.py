"""The time that a server has used of a CPU: what else the machine does changes it little."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """What a process and those that it has started have used since they began, in the kernel too.

    One that has ended counts no more.
    """
    process = Path(f"/proc/{pid}")
    try:
        used = read_stat((process / "stat").read_text())
        started = " ".join(one.read_text() for one in process.glob("task/*/children"))
    except FileNotFoundError:
        return 0.0
    return used + sum(cpu_seconds(int(child)) for child in started.split())


def read_stat(stat: str) -> float:
    """The seconds in a line of ``/proc/<pid>/stat``; the name in it, in parentheses, may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

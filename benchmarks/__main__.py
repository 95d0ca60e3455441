"""``python -m benchmarks``: run the rows on the targets, round by round, and report the medians."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from benchmarks import report
from benchmarks.cpu import cpu_seconds
from benchmarks.report import Measured
from benchmarks.rows import ROWS, US, Row, select
from benchmarks.targets import ROOT, TARGETS, Running, StartFailed, Target

RESULTS = Path(__file__).resolve().parent / "results"
LOAD_AVERAGE = os.getloadavg()[0]
"""How busy the machine was before we began: with others at work, only a large ratio means anything."""


class LoadFailed(Exception):
    """A load generator gave no number; the text says why."""


def generate(row: Row, running: Running, seconds: float, cpu: int | None) -> float:
    """Run a row's job in a process of its own, on a CPU of its own if there is one to spare.

    :returns: the job's number, unscaled.
    :raises LoadFailed: if there is none.
    """
    if row.job == "ready":
        return running.ready_seconds
    order = {
        "job": row.job,
        "server": asdict(running.server),
        "seconds": seconds,
        "cpu": cpu,
        "parameters": dict(row.parameters),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=120 + 4 * seconds,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed("the load generator did not come to an end") from None
    except subprocess.CalledProcessError as error:
        raise LoadFailed(f"the load generator ended with status {error.returncode}") from None
    answer: dict[str, object] = json.loads(done.stdout)
    if "error" in answer:
        raise LoadFailed(str(answer["error"]))
    return float(str(answer["value"]))


def run_round(target: Target, measured: Sequence[Measured], seconds: float, cpu: int | None) -> None:
    """Start a target, run every row that it can, and note the numbers and the failures."""
    mine = [one for one in measured if target.does(one.row)]
    if not mine:
        return
    try:
        with target.run() as running:
            for one in mine:
                used = cpu_seconds(running.server.pid)
                try:
                    rate = generate(one.row, running, seconds, cpu)
                    value = rate / one.row.scale
                except LoadFailed as error:
                    one.errors.setdefault(target.name, []).append(str(error))
                    say(f"  {one.row.title}: {error}")
                else:
                    one.values.setdefault(target.name, []).append(value)
                    if not one.row.less_is_better:
                        used = cpu_seconds(running.server.pid) - used
                        one.cpu.setdefault(target.name, []).append(used / (rate * 1.25 * seconds))  # with the warm-up
                    say(f"  {one.row.title}: {report.number(value)} {one.row.unit}")
                time.sleep(0.2)  # what the row left behind is not the next one's business
    except (StartFailed, OSError) as error:
        say(f"  {error}")
        for one in mine:
            one.errors.setdefault(target.name, []).append(str(error))


def set_apart_a_cpu() -> int | None:
    """Keep the last CPU for the load: the servers inherit the others from us.

    Left to itself the kernel at times puts both on one CPU, and which of the targets that hits is a matter of luck.

    :returns: the load's CPU, or ``None`` if there is only one.
    """
    *others, last = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    os.sched_setaffinity(0, others)
    return last


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def about(
    versions: Mapping[str, str], missing: Sequence[str], rounds: int, seconds: float, cpu: int | None
) -> dict[str, object]:
    """Where and how it was measured."""
    return {
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rounds": rounds,
        "seconds": seconds,
        "load_cpu": cpu,
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "load_average": LOAD_AVERAGE,
            "python": platform.python_version(),
        },
        "targets": dict(versions),
        "missing": list(missing),
    }


def subtitle(facts: Mapping[str, object], versions: Mapping[str, str]) -> str:
    """What the picture says of the circumstances."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{named}; {os.cpu_count()} CPUs; medians of {facts['rounds']} rounds, {facts['made_at']}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all targets (3)")
    parser.add_argument("--rows", metavar="A,B", help="only these rows; patterns such as qos0-* may be used")
    parser.add_argument("--targets", metavar="A,B", help=f"only these of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time of each measurement (2)")
    parser.add_argument(
        "--unpinned",
        action="store_true",
        help="let the kernel place everything; else the load has the last CPU to itself",
    )
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write; the picture goes beside it")
    chosen = parser.parse_args()
    if chosen.rounds < 1 or chosen.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    try:
        chosen.rows = select(chosen.rows)
    except ValueError as error:
        parser.error(str(error))
    names = chosen.targets.split(",") if chosen.targets else [name for name, one in TARGETS.items() if not one.ours]
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target is named {unknown[0]}")
    chosen.targets = [TARGETS[name] for name in names]
    return chosen


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """:returns: the exit status: 0 if every row gave a number in every round."""
    chosen = options()
    if chosen.list:
        for row in ROWS:
            print(f"{row.name:24} {row.title}, {row.unit}")
        return 0
    # Ended by a signal we still end our servers; and a thousand connections need as many descriptors, twice.
    signal.signal(signal.SIGTERM, _end)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    cpu = None if chosen.unpinned else set_apart_a_cpu()

    if LOAD_AVERAGE > 0.5:
        say(f"the machine is busy (load average {LOAD_AVERAGE:.1f}): the numbers will be uncertain")
    useful = [target for target in chosen.targets if any(target.does(row) for row in chosen.rows)]
    missing = [target.name for target in useful if not target.installed]
    for name in missing:
        say(f"{name} is not installed and is left out")
    targets = [target for target in useful if target.installed]
    ours = any(target.name == US for target in targets)
    measured = [Measured(row) for row in chosen.rows if ours or not row.own]
    for round_ in range(1, chosen.rounds + 1):
        for target in targets:
            say(f"round {round_}, {target.name}")
            run_round(target, measured, chosen.seconds, cpu)

    print(report.table(measured, [target.name for target in targets]), end="")
    if any(target.ours for target in targets):
        print("\n" + report.cpu_table(measured, [target.name for target in targets]), end="")
    versions = {target.name: target.version() for target in targets}
    facts = about(versions, missing, chosen.rounds, chosen.seconds, cpu)
    path = chosen.json or RESULTS / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.document(measured, facts), indent=2) + "\n")
    path.with_suffix(".svg").write_text(report.picture(measured, subtitle(facts, versions)))
    say(f"written: {os.path.relpath(path)} and the picture beside it")
    return 1 if any(one.errors for one in measured) else 0


if __name__ == "__main__":
    sys.exit(main())

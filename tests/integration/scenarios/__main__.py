"""Runs scenarios: all of them, or some, again and again."""

from __future__ import annotations

import argparse
import sys
from random import Random

from tests.integration.scenarios.playing import Playing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.scenarios", description=__doc__)
    parser.add_argument("--seed", type=int, default=Random().randrange(1 << 31))
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="may be given more than once")
    parser.add_argument("--repeat", type=int, default=1, help="with the seeds that follow")
    options = parser.parse_args()
    with Playing() as playing:
        for seed in range(options.seed, options.seed + options.repeat):
            failures = playing.play(seed, options.only, print)
            if failures:
                print(*failures, sep="\n")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""All scenarios; ``SCENARIO_SEED`` in the environment has them do again what they did."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import os
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.scenarios.playing import Playing


class ScenarioTests(SynchronousTestCase):
    """What :mod:`tests.integration.scenarios` says."""

    def test_all(self) -> None:
        """Every scenario holds, and behind all of them nothing is left of their clients."""
        seed = int(os.environ.get("SCENARIO_SEED") or Random().randrange(1 << 31))
        with Playing() as playing:
            failures = playing.play(seed)
        if failures:
            self.fail("\n".join(failures))

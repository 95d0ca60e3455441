"""One gateway, all scenarios on it, and at the end a look at what they have left behind."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection
from random import Random

from tests.integration.gateway import RunningGateway, until
from tests.integration.scenarios import access, delivery, faults, publishing, queues, resuming, sessions
from tests.integration.scenarios.census import Census
from tests.integration.scenarios.stage import SCENARIOS, Stage, equal, true

ROOMS = (access, delivery, faults, publishing, queues, resuming, sessions)
"""Their import has entered the scenarios."""

_CONFIG = """
[[topics]]
filter = "live/#"
history = false
"""

_PASSING = tuple(
    f"flowgate.{room}."
    for room in (
        *("http", "websocket", "mqtt", "subscriber", "replay", "presence", "router"),
        *("bus.feed", "bus.filtered"),
    )
)
"""Where everything goes that a client or a reader has."""

_KEPT = ("flowgate.http.wire.Head", "flowgate.mqtt.sessions._Known")
"""But for the heads of requests that are known, up to a bound, and the sessions that scenarios leave behind."""

_LINGER_SECONDS = 10
"""Until everything has gone: a client that was present may be back within a second."""


class Playing:
    """A gateway for scenarios."""

    def __init__(self) -> None:
        self.gateway = RunningGateway(config=_CONFIG)
        self.census = Census(self.gateway)

    def __enter__(self) -> Playing:
        try:
            self.gateway.start()
            # What is made once and kept: caches, the connection to the bus, the first account.
            with Stage(self.gateway, "warm", 0) as stage:
                delivery.fan_out(stage)
            self.gateway.request("GET", "/nowhere")  # the rules of paths are compiled for the first unusual one
            self._quiet()
            self._before = self.census.objects()
            self._descriptors = self.census.descriptors()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.clean_up()
        self.census.close()

    def _quiet(self) -> None:
        until(lambda: self.gateway.metric("flowgate_connections") == 0, "all have gone")

    def play(self, seed: int, only: Collection[str] = (), tell: Callable[[str], object] = str) -> list[str]:
        """Play scenarios in the order that the seed gives.

        :param only: which; all if empty.
        :param tell: called with a line for each.
        :returns: what failed.
        """
        names = sorted(only or SCENARIOS)
        Random(seed).shuffle(names)
        failures = []
        for name in names:
            began = time.monotonic()
            try:
                with Stage(self.gateway, name, seed) as stage:
                    SCENARIOS[name](stage)
            except Exception:
                failures.append(f"{name}, seed {seed}:\n{traceback.format_exc()}")
            tell(f"{time.monotonic() - began:6.2f} s  {name}")
        try:
            self._check_left()
        except AssertionError as failure:
            failures.append(f"behind all, seed {seed}: {failure}")
        return failures

    def _check_left(self) -> None:
        """Whether everything is as it was before."""
        self._quiet()
        true("Traceback" not in self.gateway.log(), self.gateway.log())
        until(lambda: self.census.descriptors() <= self._descriptors, "no connection is left open", 5)
        deadline = time.monotonic() + _LINGER_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            pass
        equal(left, {}, "objects are left")

    def _left(self) -> dict[str, int]:
        """How many objects more than before there are, by kind, of those that go with their clients."""
        return {
            kind: number - self._before[kind]
            for kind, number in self.census.objects().items()
            if kind.startswith(_PASSING) and kind not in _KEPT and number > self._before[kind]
        }

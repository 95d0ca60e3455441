"""What ``twistd flowgate`` imports first: the choice of the reactor, the options, the service.

nats-py needs asyncio's loop, so the reactor has to be Twisted's asyncio reactor, or ours, which is one.  twistd imports
this module before any reactor exists; it must import nothing that installs one before :func:`choose_reactor` has run
(``klein`` does).
"""

from __future__ import annotations

import gc
import os
import sys

from twisted.application.service import IService


def choose_reactor() -> None:
    """Install the reactor of :mod:`flowgate.reactor`, if none is there yet.

    :raises SystemExit: with one sentence, if another reactor was installed before.
    """
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    from flowgate.reactor import install

    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        install()
    elif not isinstance(installed, AsyncioSelectorReactor):
        sys.exit("flowgate needs Twisted's asyncio reactor: run twistd with --reactor=asyncio")


choose_reactor()

from flowgate.settings import Options  # noqa: E402


def tune_collector() -> None:
    """Have Python look for cyclic garbage less often, and not among what is there for good.

    Messages and packets are freed by their counts, but with the default (each 700 objects) the search for cycles takes
    up to a third of the time under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def makeService(options: Options) -> IService:
    """Make the service that :mod:`flowgate.service` describes; called by twistd."""
    from twisted.internet import reactor

    from flowgate.errors import StartError
    from flowgate.logs import LoggedService, observer
    from flowgate.service import FlowGate

    if options.parent is not None and options.parent.get("pidfile") == os.path.abspath("twistd.pid"):
        # Nothing is written outside of the data directory; its lock keeps a second gateway out.
        options.parent["pidfile"] = ""
    tune_collector()
    service = FlowGate(reactor, options.settings)
    if options.settings.log_format == "text":
        return service
    try:
        return LoggedService(service, observer(options.parent))
    except StartError as error:
        sys.exit(f"flowgate: {error}")


__all__ = ["Options", "makeService"]

"""The ``flowgate`` command: talks to a running gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flowgate.cli.api import Api, Failed, Place
from flowgate.cli.line import parse
from flowgate.client.tx import Client

__all__ = ["Api", "Failed", "Place", "execute", "main", "parse"]


async def execute(options: argparse.Namespace, api: Api) -> None:
    """Carry out a parsed command line.

    :raises Failed: if that is not possible.
    """
    try:
        await options.run(api, options)
    except UnicodeEncodeError:
        raise Failed("an argument or the output cannot be written in its encoding: use UTF-8") from None
    except (KeyError, TypeError, AttributeError):
        # Members that every Flow-Gate's answers have.
        raise Failed(f"what answers at {api.url} is not a Flow-Gate, or one of another version") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; ends the process with status 0, or 1 and one sentence on the standard error."""
    try:
        options = parse(arguments)
        place = Place.find(options)
    except Failed as failed:
        sys.exit(f"flowgate: {failed}")

    import treq  # brings a reactor with it
    from twisted.internet import reactor, task

    status = 0
    over = False

    def end(failed: object) -> None:
        nonlocal status, over
        if not over:
            print(f"flowgate: {failed}", file=sys.stderr)
            status, over = 1, True

    async def run(_: object) -> None:
        nonlocal over
        try:
            await execute(options, Api(place, treq, reactor, lambda url, key: Client(url, key, reactor=reactor)))
        except Failed as failed:
            end(failed)
        finally:
            over = True

    # Ctrl-C stops the reactor, which closes the connections under whatever is under way.
    reactor.addSystemEventTrigger("before", "shutdown", end, "interrupted")
    try:
        task.react(run, (), reactor)
    except SystemExit as ended:
        sys.exit(status or ended.code)

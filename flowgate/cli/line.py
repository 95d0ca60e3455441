"""The command line: its commands and options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred

from flowgate.cli import accounts, billing, links, messages, queues, signing, status
from flowgate.cli.api import Api, Failed

Command = Callable[[Api, argparse.Namespace], Coroutine[Deferred[Any], Any, None]]

_SECRET = re.compile(r"(?<=FGAK[A-Z2-7]{16}\.)[A-Za-z0-9]+")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # A key in the wrong place of the line has no place in a log of errors.
        raise Failed(f"{_SECRET.sub('…', message)} ({self.prog} --help tells more)")


def _everywhere(default: object = None) -> argparse.ArgumentParser:
    """The options that every command takes."""
    shared = _Parser(prog="flowgate", add_help=False, allow_abbrev=False)
    group = shared.add_argument_group("the gateway")
    group.add_argument("--data", default=default, help="data directory of the gateway [./flowgate-data]")
    group.add_argument("--url", default=default, help="URL of the gateway (FLOWGATE_URL)")
    group.add_argument("--admin-token", default=default, help="the administrator's token (FLOWGATE_ADMIN_TOKEN)")
    group.add_argument("--key", default=default, help="API key to publish, subscribe or use queues (FLOWGATE_KEY)")
    group.add_argument("--json", action="store_true", default=default or False, help="print JSON")
    return shared


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line; the options that every command takes may stand anywhere on it.

    They are taken out first: argparse does not find the second of two positional arguments behind an option, if it
    may be left out.  For a command that has options of its own, ``late`` names that argument.

    :raises Failed: if it is not understood.
    """
    shared, rest = _everywhere().parse_known_args(arguments)
    options, unknown = _parser().parse_known_args(rest, shared)
    late = getattr(options, "late", None)
    if late is not None and getattr(options, late) is None and len(unknown) == 1 and not unknown[0].startswith("-"):
        setattr(options, late, unknown.pop())
    if unknown:
        # Without its value: of a misspelt option that may be a secret.
        option = next((one.partition("=")[0] for one in unknown if one.startswith("-")), "")
        what = f"there is no option {option} here" if option else "there are too many arguments"
        raise Failed(f"{what} (flowgate --help tells more)")
    return options


def _parser() -> argparse.ArgumentParser:
    # For the help only: `parse` has taken them out.
    below = _everywhere(argparse.SUPPRESS)
    parser = _Parser(prog="flowgate", description="Talks to a running Flow-Gate.", parents=[below])

    def commands(parent: argparse.ArgumentParser) -> Any:
        return parent.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    top = commands(parser)

    def command(where: Any, name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = where.add_parser(name, help=text, description=text, parents=[below])
        added.set_defaults(run=run)
        return added

    _account_commands(lambda name, text: commands(top.add_parser(name, help=text, parents=[below])), command)
    log = command(top, "audit", accounts.audit, "Show what administrators and users did, the newest first.")
    log.add_argument("--user", metavar="USER", help="only what is about this account")
    log.add_argument("--max", type=int, default=100, metavar="N", help="at most so many entries [100]")

    money = command(top, "balance", billing.balance, "Show what a user has used, and change the balance.")
    money.add_argument("user", metavar="USER")
    money.add_argument("--add", type=int, metavar="UNITS", help="add units; fewer than 0 take some away")
    money.add_argument("--id", metavar="ID", help="names the change: the same one is made once [another each time]")
    money.add_argument("--note", metavar="TEXT", help="what it is for; the user sees it")

    signing_keys = commands(top.add_parser("signing-key", help="the keys that sign tokens", parents=[below]))
    command(signing_keys, "list", signing.signing_key_list, "List the keys that verify tokens.")
    rotate = command(signing_keys, "rotate", signing.signing_key_rotate, "Have another key sign tokens.")
    rotate.add_argument("--immediately", action="store_true", help="give the others up: every token ends")

    command(top, "status", status.status, "Show how every node of the gateway is.")

    exchange = command(top, "token", messages.token, "Exchange an API key for a token, and print it.")
    exchange.add_argument("api_key", metavar="KEY")
    exchange.add_argument("--ttl", type=int, metavar="SECONDS", help="seconds of life [900]")

    send = command(top, "publish", messages.publish, "Publish one message.")
    send.add_argument("topic", metavar="TOPIC")
    send.add_argument("message", metavar="MESSAGE", nargs="?", help="the message; - or nothing: the standard input")
    command(top, "subscribe", messages.subscribe, "Print messages as they come.").add_argument(
        "filter", metavar="FILTER"
    )

    _queue_commands(commands(top.add_parser("queue", help="queues", parents=[below])), command)
    return parser


def _account_commands(
    group: Callable[[str, str], Any], command: Callable[[Any, str, Command, str], argparse.ArgumentParser]
) -> None:
    keys = group("key", "API keys")
    create = command(keys, "create", accounts.key_create, "Make an API key, print it, and make USER if new.")
    create.add_argument("user", metavar="USER")
    create.add_argument("app", metavar="APP")
    create.add_argument("--name", help="a text to know it by")
    create.add_argument("--publish", action="append", metavar="FILTER", help="grant publishing; can be repeated")
    create.add_argument("--subscribe", action="append", metavar="FILTER", help="grant subscribing; can be repeated")
    create.add_argument("--queue", action="append", metavar="NAME", help="grant a queue, send:NAME …; can be repeated")
    create.add_argument("--expires", type=int, metavar="DAYS", help="days after which it is not accepted any more")
    some = command(keys, "list", accounts.key_list, "List the API keys.")
    some.add_argument("--user", metavar="USER", help="only this user's")
    some.add_argument("--app", metavar="APP", help="only this application's")
    rotate = command(keys, "rotate", accounts.key_rotate, "Make a key in the place of another, and print it.")
    rotate.add_argument("id", metavar="ID")
    rotate.add_argument("--overlap", type=int, metavar="SECONDS", help="accept the old one so much longer [86400]")
    command(keys, "revoke", accounts.key_revoke, "Revoke an API key.").add_argument("id", metavar="ID")

    users = group("user", "users")

    def of_user(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = command(users, name, run, text)
        added.add_argument("user", metavar="USER")
        return added

    of_user("create", accounts.user_create, "Make a user.").add_argument("--plan", metavar="PLAN", help="the plan")
    command(users, "list", accounts.user_list, "List the users.")
    of_user("show", accounts.user_show, "Show a user.")
    suspend = of_user("suspend", accounts.user_suspend, "Suspend a user.")
    suspend.add_argument("--resume", action="store_true", help="end the suspension")
    of_user("resume", accounts.user_resume, "End the suspension of a user.")
    plan = of_user("plan", accounts.user_plan, "Give a user another plan.")
    plan.add_argument("plan", metavar="PLAN", nargs="?", help="nothing: the default plan")
    link = of_user("link", links.user_link, "Make a one-time link to a password for the dashboard.")
    link.add_argument("--admin", action="store_true", help="make the user an administrator of the dashboard")
    of_user("delete", accounts.user_delete, "Remove a user with all keys and shares; the name is not given again.")

    shares = group("share", "topics of one account that another may use")
    share = command(shares, "create", accounts.share_create, "Let GRANTEE use topics of OWNER's APP; print the id.")
    share.add_argument("owner", metavar="OWNER")
    share.add_argument("app", metavar="APP")
    share.add_argument("grantee", metavar="GRANTEE")
    share.add_argument("--to-app", dest="grantee_app", metavar="APP", help="only keys of this application")
    share.add_argument("--publish", action="append", metavar="FILTER", help="what may be published to; can be repeated")
    share.add_argument("--subscribe", action="append", metavar="FILTER", help="what may be read; can be repeated")
    share.add_argument("--name", help="a text to know it by")
    listing = command(shares, "list", accounts.share_list, "List the shares.")
    listing.add_argument("--owner", metavar="USER", help="only shares of this user's topics")
    listing.add_argument("--grantee", metavar="USER", help="only shares for this user")
    command(shares, "revoke", accounts.share_revoke, "End a share.").add_argument("id", metavar="ID")


def _queue_commands(where: Any, command: Callable[[Any, str, Command, str], argparse.ArgumentParser]) -> None:
    def named(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = command(where, name, run, text)
        added.add_argument("queue_name", metavar="NAME")
        return added

    create = named("create", queues.create, "Make a queue; one whose name ends in .fifo is a FIFO queue.")
    create.add_argument("--visibility", type=int, metavar="SECONDS", help="time to delete a received message in [30]")
    create.add_argument("--delay", type=int, metavar="SECONDS", help="hide new messages so long [0]")
    create.add_argument("--wait", type=int, metavar="SECONDS", help="let receives wait so long for a message [0]")
    create.add_argument("--retention", type=int, metavar="SECONDS", help="keep messages so long [345600]")
    create.add_argument("--max-bytes", type=int, metavar="BYTES", help="largest body and attributes [1048576]")
    create.add_argument("--dead-letter", metavar="QUEUE", help="where messages go that are received too often")
    create.add_argument("--max-receives", type=int, metavar="N", help="receives before they go there [10]")
    create.add_argument("--content-dedup", action="store_true", default=None, help="FIFO: recognise equal bodies")
    create.add_argument("--dedup-scope", choices=("queue", "group"), help="FIFO: where they are recognised [queue]")
    create.add_argument("--tag", action="append", metavar="NAME=TEXT", help="a note at the queue; can be repeated")

    command(where, "list", queues.list_all, "List the queues.").add_argument(
        "--prefix", default="", metavar="TEXT", help="only those whose names begin so"
    )
    named("delete", queues.delete, "Delete a queue with its messages.")

    put = named("send", queues.send, "Send one message to a queue.")
    put.add_argument("body", metavar="BODY", nargs="?", help="the message; - or nothing: the standard input")
    put.set_defaults(late="body")
    put.add_argument("--delay", type=int, metavar="SECONDS", help="hide it so long [the queue's]")
    put.add_argument("--group", metavar="GROUP", help="FIFO: keep it in order with others of this group")
    put.add_argument("--dedup-id", metavar="ID", help="FIFO: take it once in 5 minutes")
    put.add_argument("--attribute", action="append", metavar="NAME=TEXT", help="an attribute; can be repeated")

    take = named("receive", queues.receive, "Receive messages from a queue; print receipt and body.")
    take.add_argument("--max", type=int, default=1, metavar="N", help="at most so many messages [1]")
    take.add_argument("--wait", type=int, default=0, metavar="SECONDS", help="wait so long for a message [0]")
    take.add_argument("--visibility", type=int, metavar="SECONDS", help="time to delete it in [the queue's]")
    take.add_argument("--delete", action="store_true", help="delete what was received")

    named("stats", queues.stats, "Show what a queue holds.")
    named("purge", queues.purge, "Delete all messages of a queue.")
    look = named("peek", queues.peek, "Show messages without receiving them: id, receive count and body.")
    look.add_argument("--max", type=int, default=10, metavar="N", help="at most so many messages [10]")

    back = named("redrive", queues.redrive, "Move the messages of a dead-letter queue back; print the task.")
    back.add_argument("--to", metavar="QUEUE", help="where to [each to the queue that it came from]")
    back.add_argument("--rate", type=int, metavar="N", help="so many messages a second at most")
    other = back.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="list the tasks instead")
    other.add_argument("--cancel", metavar="TASK", help="end a task instead; print how many messages it has moved")

    tie = named("subscribe", queues.subscribe, "Have messages on topics sent to a queue; or list its filters.")
    tie.add_argument("filter", metavar="FILTER", nargs="?", help="nothing: list the filters")
    named("unsubscribe", queues.unsubscribe, "End that.").add_argument("filter", metavar="FILTER")

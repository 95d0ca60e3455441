"""The ``flowgate`` command: talks over HTTP to a running gateway."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

DEFAULT_DATA = "flowgate-data"
_TIMEOUT = 30
_LONGEST_LINE = 4 * 1024 * 1024
_SECRET = re.compile(r"(?<=FGAK[A-Z2-7]{16}\.)[A-Za-z0-9]+")

_NO_ANSWER = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestTransmissionFailed,
    ResponseFailed,
    # What the time-out makes of a request, before there is a connection.
    CancelledError,
    ConnectingCancelledError,
)


class Failed(Exception):
    """The command cannot do what it was told; the text is one sentence."""


@attrs.frozen(slots=True)
class Place:
    """Where the gateway is.

    :ivar url: without a slash at the end.
    :ivar admin_token: for what only administrators may do; empty if there is none at hand.
    """

    url: str
    admin_token: str = attrs.field(repr=False)

    @classmethod
    def find(cls, options: argparse.Namespace) -> Place:
        """Find a gateway by the options, the environment, or what it wrote into its data directory.

        The token in the data directory belongs to the gateway there: another one, named by its URL alone, is not
        shown it.

        :raises Failed: if nothing tells, or the URL is none.
        """
        named = options.data or os.environ.get("FLOWGATE_DATA")
        data = Path(named or DEFAULT_DATA)
        url = options.url or os.environ.get("FLOWGATE_URL") or ""
        here = bool(named) or not url
        if not url:
            try:
                url = json.loads((data / "gateway.json").read_text())["url"]
            except (OSError, ValueError, KeyError, TypeError):
                raise Failed(
                    f"no gateway runs with the data directory {data}: start it with twistd -n flowgate,"
                    " or give --data or --url"
                ) from None
        _check_url(url)
        token = options.admin_token or os.environ.get("FLOWGATE_ADMIN_TOKEN") or ""
        if not token and here:
            try:
                token = (data / "admin.token").read_text().strip()
            except (OSError, UnicodeDecodeError):
                token = ""
        return cls(url.rstrip("/"), token)


def _check_url(url: object) -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Failed(f"{url!r} is not the URL of a gateway, such as http://127.0.0.1:8080")


class Api:
    """Requests to one gateway.

    :param treq: the treq module, or what stands for it in tests.
    """

    def __init__(self, place: Place, treq: Any) -> None:
        self._place = place
        self._treq = treq

    async def request(self, method: str, path: str, body: object = None, token: str | None = None) -> IResponse:
        """Make a request.

        :raises Failed: if no gateway answers, or it refuses.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        arguments: dict[str, Any] = {"headers": headers}
        if body is not None:
            arguments["data"] = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            response: IResponse = await self._treq.request(
                method,
                self._place.url + path,
                timeout=_TIMEOUT,
                unbuffered=True,
                allow_redirects=False,  # the token is for this place only
                **arguments,
            )
        except _NO_ANSWER:
            raise Failed(f"no gateway answers at {self._place.url}: is `twistd flowgate` running?") from None
        if not 200 <= response.code < 300:
            raise Failed(_reason(response.code, await self._content(response)))
        return response

    async def _content(self, response: IResponse) -> bytes:
        try:
            content: bytes = await self._treq.content(response)
        except _NO_ANSWER:
            raise Failed(f"the answer of the gateway at {self._place.url} broke off") from None
        return content

    async def json(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        response = await self.request(method, path, body, token)
        text = await self._content(response)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise Failed(f"what answers at {self._place.url} is not a Flow-Gate") from None

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """Make a request of the administrator."""
        if not self._place.admin_token:
            raise Failed("the admin token is not at hand: give --data of the gateway, or --admin-token")
        return await self.json(method, "/api/v1/admin" + path, body, self._place.admin_token)

    async def token(self, key: str, ttl: int | None = None) -> str:
        """Exchange an API key for a token."""
        body: dict[str, object] = {"api_key": key}
        if ttl is not None:
            body["ttl"] = ttl
        answer = await self.json("POST", "/token/", body)
        token: str = answer["token"]
        return token


def _reason(status: int, text: bytes) -> str:
    try:
        problem = json.loads(text)
        said = problem.get("detail") or problem.get("error_description") or problem.get("title")
    except (ValueError, AttributeError):
        said = None
    return " ".join(str(said).split()) if said else f"the gateway answered with status {status}"


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the interpreter flushes it once more at its end)
        raise Failed("nobody reads the output any more") from None


def _line(value: object) -> str:
    """A value of a message on one line; what would break the line, or talk to the terminal, is escaped as in JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _key(options: argparse.Namespace) -> str:
    key = options.key or os.environ.get("FLOWGATE_KEY")
    if not key:
        raise Failed("an API key is needed: give --key, or set FLOWGATE_KEY")
    return str(key)


def _input(text: str | None) -> str:
    """The text of an argument, or of the standard input for ``-``."""
    if text is not None and text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise Failed("the message is not UTF-8") from None


# -- the commands

Command = Callable[[Api, argparse.Namespace], Coroutine[Deferred[Any], Any, None]]


async def key_create(api: Api, options: argparse.Namespace) -> None:
    body: dict[str, object] = {"user": options.user, "app": options.app}
    for name, value in (("name", options.name), ("publish", options.publish), ("subscribe", options.subscribe)):
        if value:
            body[name] = value
    if options.queue:
        body["queues"] = options.queue
    if options.expires is not None:
        body["expires_days"] = options.expires
    answer = await api.admin("POST", "/keys", body)
    _say(json.dumps(answer) if options.json else answer["key"])


async def key_list(api: Api, options: argparse.Namespace) -> None:
    keys = (await api.admin("GET", "/keys"))["keys"]
    if options.json:
        _say(json.dumps(keys))
        return
    for key in keys:
        state = "revoked" if key["disabled"] else "active"
        _say(f"{key['id']}  {key['user']}/{key['app']}  {state}  {key['name']}".rstrip())


async def key_revoke(api: Api, options: argparse.Namespace) -> None:
    await api.admin("DELETE", f"/keys/{quote(options.id, safe='')}")


async def user_create(api: Api, options: argparse.Namespace) -> None:
    await api.admin("POST", "/users", {"user": options.user})


async def user_list(api: Api, options: argparse.Namespace) -> None:
    users = (await api.admin("GET", "/users"))["users"]
    if options.json:
        _say(json.dumps(users))
        return
    for user in users:
        _say(f"{user['user']}  {'suspended' if user['suspended'] else 'active'}")


async def user_suspend(api: Api, options: argparse.Namespace) -> None:
    await api.admin("POST", f"/users/{quote(options.user, safe='')}/suspend", {"suspended": not options.resume})


async def token(api: Api, options: argparse.Namespace) -> None:
    _say(await api.token(options.api_key, options.ttl))


async def publish(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    body = {"topic": options.topic, "message": _input(options.message)}
    answer = await api.json("POST", "/api/v1/publish", body, bearer)
    _say(json.dumps(answer) if options.json else answer["id"])


class _Events(Protocol):
    """Prints the data of each event of a stream as one line.

    :param ended: fails when the stream ends, since its reader always wants more.
    """

    def __init__(self, ended: Deferred[None], show: Callable[[dict[str, Any]], None]) -> None:
        self._ended = ended
        self._show = show
        self._rest = b""
        self._kind = ""

    def dataReceived(self, data: bytes) -> None:
        if self._ended.called:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            if len(self._rest) > _LONGEST_LINE:
                raise Failed("the gateway sent a line without an end")
            for line in lines:
                self._take(line)
        except Failed as failed:
            self._ended.errback(failed)
        except (ValueError, KeyError, TypeError):
            self._ended.errback(Failed("the gateway sent an event that cannot be read"))

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b": ")
        if name == b"event":
            self._kind = value.decode()
        elif name == b"data" and self._kind == "message":
            self._show(json.loads(value))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            said = "the gateway ended the stream: it goes away, or the key is not good any more, or a day is over"
        else:
            said = "the connection to the gateway was lost"
        self._ended.errback(Failed(said))


async def subscribe(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options), 86400)
    response = await api.request("GET", f"/api/v1/subscribe?topic={quote(options.filter, safe='')}", token=bearer)

    def show(event: dict[str, Any]) -> None:
        _say(json.dumps(event) if options.json else f"{_line(event['topic'])}\t{_line(event['data'])}")

    ended: Deferred[None] = Deferred()
    response.deliverBody(_Events(ended, show))  # type: ignore[no-untyped-call]
    await ended


def _queue(options: argparse.Namespace) -> str:
    return f"/api/v1/queues/{quote(options.queue_name, safe='')}"


def _given(options: argparse.Namespace, **members: str) -> dict[str, object]:
    """The members of a body whose options were given."""
    values = {member: getattr(options, option) for member, option in members.items()}
    return {member: value for member, value in values.items() if value is not None}


def _pairs(pairs: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise Failed(f"{pair!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


async def queue_create(api: Api, options: argparse.Namespace) -> None:
    body = _given(
        options,
        visibility="visibility",
        delay="delay",
        receive_wait="wait",
        retention="retention",
        max_message_bytes="max_bytes",
        content_dedup="content_dedup",
        dedup_scope="dedup_scope",
    )
    if options.dead_letter is not None:
        body["dead_letter"] = {"queue": options.dead_letter, **_given(options, max_receives="max_receives")}
    elif options.max_receives is not None:
        raise Failed("--max-receives needs --dead-letter")
    if options.tag:
        body["tags"] = _pairs(options.tag)
    bearer = await api.token(_key(options))
    answer = await api.json("PUT", _queue(options), body, bearer)
    if options.json:
        _say(json.dumps(answer))


async def queue_list(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    queues: list[dict[str, Any]] = []
    query = f"prefix={quote(options.prefix, safe='')}&limit=1000"
    cursor = ""
    while True:
        page = await api.json("GET", f"/api/v1/queues?{query}{cursor}", token=bearer)
        queues += page["queues"]
        if page["next"] is None:
            break
        cursor = f"&cursor={quote(page['next'], safe='')}"
    if options.json:
        _say(json.dumps(queues))
        return
    for queue in queues:
        config = queue["config"]
        dead = f"  dead letters to {config['dead_letter']['queue']}" if config["dead_letter"] else ""
        _say(f"{queue['name']}  {config['type']}{dead}")


async def queue_delete(api: Api, options: argparse.Namespace) -> None:
    await api.json("DELETE", _queue(options), token=await api.token(_key(options)))


async def queue_send(api: Api, options: argparse.Namespace) -> None:
    body = _given(options, delay="delay", group="group", dedup_id="dedup_id")
    if options.attribute:
        body["attributes"] = _pairs(options.attribute)
    bearer = await api.token(_key(options))
    answer = await api.json("POST", f"{_queue(options)}/messages", {"body": _input(options.body), **body}, bearer)
    _say(json.dumps(answer) if options.json else answer["id"])


def _body(message: dict[str, Any]) -> str:
    text: str = message["body"] if "body" in message else message["body_base64"]
    return text


async def queue_receive(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    body = {"max": options.max, "wait": options.wait}
    if options.visibility is not None:
        body["visibility"] = options.visibility
    messages = (await api.json("POST", f"{_queue(options)}/messages/receive", body, bearer))["messages"]
    if options.json:
        _say(json.dumps(messages))
    for message in messages:
        if not options.json:
            _say(_body(message) if options.delete else f"{message['receipt']}\t{_line(_body(message))}")
        if options.delete:
            await api.json("DELETE", f"{_queue(options)}/messages/{quote(message['receipt'], safe='')}", token=bearer)


async def queue_stats(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    stats = (await api.json("GET", _queue(options), token=bearer))["stats"]
    _say(json.dumps(stats) if options.json else "\n".join(f"{name}: {value}" for name, value in stats.items()))


async def queue_purge(api: Api, options: argparse.Namespace) -> None:
    await api.json("POST", f"{_queue(options)}/purge", token=await api.token(_key(options)))


async def queue_peek(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    answer = await api.json("GET", f"{_queue(options)}/messages/peek?limit={options.max}", token=bearer)
    if options.json:
        _say(json.dumps(answer["messages"]))
        return
    for message in answer["messages"]:
        _say(f"{message['id']}\t{message['receive_count']}\t{_line(_body(message))}")


async def queue_redrive(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    path = f"{_queue(options)}/redrive"
    if options.list:
        tasks = (await api.json("GET", path, token=bearer))["tasks"]
        if options.json:
            _say(json.dumps(tasks))
            return
        for task in tasks:
            _say(f"{task['task']}  {task['status']}  {task['moved']} of {task['to_move']}")
    elif options.cancel is not None:
        task = await api.json("DELETE", f"{path}/{quote(options.cancel, safe='')}", token=bearer)
        _say(json.dumps(task) if options.json else str(task["moved"]))
    else:
        body = _given(options, destination="to", max_per_second="rate")
        task = await api.json("POST", path, body, bearer)
        _say(json.dumps(task) if options.json else task["task"])


async def queue_subscribe(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    path = f"{_queue(options)}/subscriptions"
    if options.filter is not None:
        await api.json("PUT", path, {"topic": options.filter}, bearer)
        return
    subscriptions = (await api.json("GET", path, token=bearer))["subscriptions"]
    if options.json:
        _say(json.dumps(subscriptions))
        return
    for subscription in subscriptions:
        _say(_line(subscription["topic"]))


async def queue_unsubscribe(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(_key(options))
    await api.json("DELETE", f"{_queue(options)}/subscriptions", {"topic": options.filter}, bearer)


# -- the command line


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

    keys = commands(top.add_parser("key", help="API keys", parents=[below]))
    create = command(keys, "create", key_create, "Make an API key, print it, and make USER if new.")
    create.add_argument("user", metavar="USER")
    create.add_argument("app", metavar="APP")
    create.add_argument("--name", help="a text to know it by")
    create.add_argument("--publish", action="append", metavar="FILTER", help="grant publishing; can be repeated")
    create.add_argument("--subscribe", action="append", metavar="FILTER", help="grant subscribing; can be repeated")
    create.add_argument("--queue", action="append", metavar="NAME", help="grant a queue; can be repeated")
    create.add_argument("--expires", type=int, metavar="DAYS", help="days after which it is not accepted any more")
    command(keys, "list", key_list, "List the API keys.")
    command(keys, "revoke", key_revoke, "Revoke an API key.").add_argument("id", metavar="ID")

    users = commands(top.add_parser("user", help="users", parents=[below]))
    command(users, "create", user_create, "Make a user.").add_argument("user", metavar="USER")
    command(users, "list", user_list, "List the users.")
    suspend = command(users, "suspend", user_suspend, "Suspend a user.")
    suspend.add_argument("user", metavar="USER")
    suspend.add_argument("--resume", action="store_true", help="end the suspension")

    exchange = command(top, "token", token, "Exchange an API key for a token, and print it.")
    exchange.add_argument("api_key", metavar="KEY")
    exchange.add_argument("--ttl", type=int, metavar="SECONDS", help="seconds of life [900]")

    send = command(top, "publish", publish, "Publish one message.")
    send.add_argument("topic", metavar="TOPIC")
    send.add_argument("message", metavar="MESSAGE", nargs="?", help="the message; - or nothing: the standard input")
    command(top, "subscribe", subscribe, "Print messages as they come.").add_argument("filter", metavar="FILTER")

    _queue_commands(commands(top.add_parser("queue", help="queues", parents=[below])), command)
    return parser


def _queue_commands(queues: Any, command: Callable[[Any, str, Command, str], argparse.ArgumentParser]) -> None:
    def named(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = command(queues, name, run, text)
        added.add_argument("queue_name", metavar="NAME")
        return added

    create = named("create", queue_create, "Make a queue; one whose name ends in .fifo is a FIFO queue.")
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

    command(queues, "list", queue_list, "List the queues.").add_argument(
        "--prefix", default="", metavar="TEXT", help="only those whose names begin so"
    )
    named("delete", queue_delete, "Delete a queue with its messages.")

    put = named("send", queue_send, "Send one message to a queue.")
    put.add_argument("body", metavar="BODY", nargs="?", help="the message; - or nothing: the standard input")
    put.set_defaults(late="body")
    put.add_argument("--delay", type=int, metavar="SECONDS", help="hide it so long [the queue's]")
    put.add_argument("--group", metavar="GROUP", help="FIFO: keep it in order with others of this group")
    put.add_argument("--dedup-id", metavar="ID", help="FIFO: take it once in 5 minutes")
    put.add_argument("--attribute", action="append", metavar="NAME=TEXT", help="an attribute; can be repeated")

    take = named("receive", queue_receive, "Receive messages from a queue; print receipt and body.")
    take.add_argument("--max", type=int, default=1, metavar="N", help="at most so many messages [1]")
    take.add_argument("--wait", type=int, default=0, metavar="SECONDS", help="wait so long for a message [0]")
    take.add_argument("--visibility", type=int, metavar="SECONDS", help="time to delete it in [the queue's]")
    take.add_argument("--delete", action="store_true", help="delete what was received")

    named("stats", queue_stats, "Show what a queue holds.")
    named("purge", queue_purge, "Delete all messages of a queue.")
    look = named("peek", queue_peek, "Show messages without receiving them: id, receive count and body.")
    look.add_argument("--max", type=int, default=10, metavar="N", help="at most so many messages [10]")

    back = named("redrive", queue_redrive, "Move the messages of a dead-letter queue back; print the task.")
    back.add_argument("--to", metavar="QUEUE", help="where to [each to the queue that it came from]")
    back.add_argument("--rate", type=int, metavar="N", help="so many messages a second at most")
    other = back.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="list the tasks instead")
    other.add_argument("--cancel", metavar="TASK", help="end a task instead; print how many messages it has moved")

    tie = named("subscribe", queue_subscribe, "Have messages on topics sent to a queue; or list its filters.")
    tie.add_argument("filter", metavar="FILTER", nargs="?", help="nothing: list the filters")
    named("unsubscribe", queue_unsubscribe, "End that.").add_argument("filter", metavar="FILTER")


async def execute(options: argparse.Namespace, place: Place, treq: Any) -> None:
    """Carry out a parsed command line.

    :param treq: the treq module, or what stands for it in tests.
    :raises Failed: if that is not possible.
    """
    try:
        await options.run(Api(place, treq), options)
    except UnicodeEncodeError:
        raise Failed("an argument or the output cannot be written in its encoding: use UTF-8") from None
    except (KeyError, TypeError, AttributeError):
        # Members that every Flow-Gate's answers have.
        raise Failed(f"what answers at {place.url} is not a Flow-Gate, or one of another version") from None


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
            await execute(options, place, treq)
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

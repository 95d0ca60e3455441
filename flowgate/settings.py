"""Options: one table, read from the command line, the environment and a TOML file, in this order of precedence."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.python import usage

from flowgate.auth.signing import ANNOUNCE
from flowgate.billing.plans import MEMBERS as PLAN_MEMBERS
from flowgate.billing.plans import Plan, parse_plan
from flowgate.errors import Refused, StartError
from flowgate.limits import Limits, TopicPolicy
from flowgate.queues.declared import MEMBERS, DeclaredQueue
from flowgate.webhooks.addresses import AddressPolicy

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

ENVIRONMENT = "FLOWGATE_"
_AGE = re.compile(r"([1-9][0-9]{0,8})([smhd])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_AGE = 36500 * 86400
_URL = re.compile(r"https?://[^\s/]+(?:/\S*)?\Z")
_ACCOUNT = re.compile(r"[0-9]{12}\Z")


class Invalid(ValueError):
    """A value that is not allowed; the text says what is, without naming the place."""


def parse_age(value: object) -> int:
    """Read an age such as ``"30s"``, ``"15m"``, ``"24h"`` or ``"7d"``; return seconds."""
    found = _AGE.match(value) if isinstance(value, str) else None
    if found is None:
        raise Invalid('must be an age such as "30s", "15m", "24h" or "7d"')
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST_AGE:
        raise Invalid("must be an age of at most 36500d")  # nanoseconds in 64 bits are what the bus counts in
    return seconds


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Invalid("must be a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise Invalid("must be a list of texts")
    return tuple(_text(one) for one in value)


def _path(value: object) -> Path:
    return Path(_text(value))


def _number_of_text(text: str) -> object:
    """A number as the environment writes it; a text that is none is left for the option to refuse."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else text


def _whole(least: int, most: int | None) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            raise Invalid(f"must be a whole number from {least}" + ("" if most is None else f" to {most}"))
        return value

    return parse


def _truth_of_text(text: str) -> object:
    """Yes or no as the environment writes it, in TOML's words."""
    return {"true": True, "false": False}.get(text, text)


def _truth(value: object) -> bool:
    if type(value) is not bool:
        raise Invalid("must be true or false")
    return value


def _choice(one: str, other: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in (one, other):
            raise Invalid(f"must be {one} or {other}")
        return str(value)

    return parse


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*\.)?[a-z0-9._\[\]:-]+\Z")


def _origins(value: object) -> tuple[str, ...]:
    found = []
    for one in _texts(value):
        origin = one.lower()
        if origin != "null" and not _ORIGIN.match(origin):
            raise Invalid("must be origins such as https://example.org, without a path, or null")
        # Browsers leave the scheme's own port out (RFC 6454 section 6.2).
        for scheme, port in (("http:", ":80"), ("https:", ":443")):
            if origin.startswith(scheme):
                origin = origin.removesuffix(port)
        found.append(origin)
    return tuple(found)


def _networks(value: object) -> tuple[str, ...]:
    networks = _texts(value)
    try:
        AddressPolicy(networks)
    except ValueError as error:
        raise Invalid(f"must be a list of networks such as 10.1.0.0/16: {error}") from None
    return networks


def _url(value: object) -> str:
    url = _text(value)
    if not _URL.match(url):
        raise Invalid("must be a URL such as https://example.org/path")
    return url


def _account(value: object) -> str:
    if not isinstance(value, str) or not _ACCOUNT.match(value):
        raise Invalid("must be a text of 12 digits")
    return value


@attrs.frozen(slots=True)
class Settings:
    """What one node was told.

    :ivar data: the data directory.
    :ivar http: endpoints for HTTP and WebSocket.
    :ivar mqtt: endpoints for MQTT.
    :ivar mqtt_client_ca: a PEM file of authorities, whose certificates MQTT clients may present on ``ssl:`` endpoints.
    :ivar mqtt_client_cert_required: whether they have to.
    :ivar nats: NATS servers; none for a nats-server of our own.
    :ivar durability: when our own nats-server flushes to the disk: ``os`` (each second) or ``fsync`` (always).
    :ivar replicas: copies of every stream in a NATS cluster.
    :ivar master_secret: instead of the one in the data directory.
    :ivar master_secret_file: a file that holds it, such as a container's secret.
    :ivar admin_token: instead of the one in the data directory.
    :ivar admin_token_file: a file that holds it.
    :ivar issuer: the ``iss`` of tokens.
    :ivar signing_announce: seconds for which a new signing key is published before it signs.
    :ivar sqs_account_id: the account in the URLs and ARNs of queues that SQS clients are shown.
    :ivar sqs_regions: whether SQS clients of all regions see the same queues (``shared``) or not (``separate``).
    :ivar history_messages: messages that history keeps for each topic.
    :ivar history_age: seconds that history keeps a message.
    :ivar websocket_origins: of pages whose scripts may open a WebSocket; none for all.
    :ivar websocket_deflate: whether WebSocket clients are offered compression.
    :ivar dashboard_enabled: whether the dashboard is served.
    :ivar dashboard_secure: whether browsers are told to keep its cookie for TLS, although none is spoken to us.
    :ivar webhooks_allow: networks that webhooks may lead to although they are not public.
    :ivar webhooks_http: whether webhooks may lead to ``http:`` URLs.
    :ivar metrics: who may read the metrics: ``admin`` or everybody (``open``).
    :ivar log_format: how the log is written: ``text`` or ``json``.
    :ivar log_requests: whether each HTTP request has a line in the log.
    :ivar plans: what can belong to an account.
    :ivar default_plan: the name of the plan of users without any; empty for one without limits.
    :ivar billing_webhook: a URL that is told when an account has used most of its plan; empty for none.
    :ivar policies: what holds for topics, by their filters.
    :ivar queues: queues that have to be there.
    """

    data: Path = Path("flowgate-data")
    http: tuple[str, ...] = ("tcp:8080:interface=127.0.0.1",)
    mqtt: tuple[str, ...] = ("tcp:1883:interface=127.0.0.1",)
    mqtt_client_ca: Path | None = None
    mqtt_client_cert_required: bool = False
    nats: tuple[str, ...] = ()
    durability: str = "os"
    replicas: int = 1
    master_secret: str | None = attrs.field(default=None, repr=False)
    master_secret_file: Path | None = None
    admin_token: str | None = attrs.field(default=None, repr=False)
    admin_token_file: Path | None = None
    issuer: str = "flowgate"
    signing_announce: int = ANNOUNCE
    sqs_account_id: str = "123456789012"
    sqs_regions: str = "shared"
    history_messages: int = 1000
    history_age: int = 86400
    websocket_origins: tuple[str, ...] = ()
    websocket_deflate: bool = False
    dashboard_enabled: bool = True
    dashboard_secure: bool = False
    webhooks_allow: tuple[str, ...] = ()
    webhooks_http: bool = False
    metrics: str = "admin"
    log_format: str = "text"
    log_requests: bool = False
    limits: Limits = attrs.field(factory=Limits)
    plans: tuple[Plan, ...] = ()
    default_plan: str = ""
    billing_webhook: str = ""
    policies: tuple[TopicPolicy, ...] = ()
    queues: tuple[DeclaredQueue, ...] = ()


@attrs.frozen(slots=True)
class Option:
    """One option: its name in the TOML file, and how a value is read.

    The environment's name is ``FLOWGATE_`` and the same in capitals, with ``_`` for the dot.
    """

    name: str
    parse: Callable[[object], object]
    many: bool = False
    number: bool = False
    truth: bool = False

    def of_text(self, text: str) -> object:
        """A value as the environment writes it; one that cannot be understood is left for ``parse`` to refuse."""
        if self.many:
            return text.split()
        return _number_of_text(text) if self.number else _truth_of_text(text) if self.truth else text

    @property
    def variable(self) -> str:
        return ENVIRONMENT + self.name.replace(".", "_").upper()

    @property
    def field(self) -> str:
        """The field of :class:`Settings` that it sets; of :class:`Limits` for those below ``limits``."""
        return self.name.removeprefix("limits.").replace(".", "_")


OPTIONS: tuple[Option, ...] = (
    Option("data", _path),
    Option("http", _texts, many=True),
    Option("mqtt", _texts, many=True),
    Option("mqtt_client_ca", _path),
    Option("mqtt_client_cert_required", _truth, truth=True),
    Option("nats", _texts, many=True),
    Option("durability", _choice("os", "fsync")),
    Option("replicas", _whole(1, 5), number=True),
    Option("master_secret", _text),
    Option("master_secret_file", _path),
    Option("admin_token", _text),
    Option("admin_token_file", _path),
    Option("issuer", _text),
    Option("signing.announce", parse_age),
    Option("sqs_account_id", _account),
    Option("sqs_regions", _choice("shared", "separate")),
    Option("history.messages", _whole(1, 1_000_000), number=True),
    Option("history.age", parse_age),
    Option("websocket.origins", _origins, many=True),
    Option("websocket.deflate", _truth, truth=True),
    Option("dashboard.enabled", _truth, truth=True),
    Option("dashboard.secure", _truth, truth=True),
    Option("webhooks.allow", _networks, many=True),
    Option("webhooks.http", _truth, truth=True),
    Option("default_plan", _text),
    Option("billing.webhook", _url),
    Option("metrics", _choice("admin", "open")),
    Option("log_format", _choice("text", "json")),
    Option("log_requests", _truth, truth=True),
    *(
        Option(f"limits.{field.name}", _whole(field.metadata["least"], field.metadata.get("most")), number=True)
        for field in attrs.fields(Limits)
    ),
)
"""Every option; ``config`` names the file itself and can stand on the command line and in the environment only."""


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    known = {option.variable: option for option in OPTIONS}
    found: dict[str, tuple[object, str]] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT) or variable in (
            ENVIRONMENT + "CONFIG",
            ENVIRONMENT + "KEY",  # of the flowgate command
            ENVIRONMENT + "URL",
        ):
            continue
        option = known.get(variable)
        if option is None:
            raise StartError(f"the environment variable {variable}: {_unknown(variable, list(known))}")
        found[option.name] = (option.of_text(text), f"the environment variable {variable}")
    return found


_LISTS = ("topics", "queues")
"""Tables of the file that can be repeated."""


def _from_file(
    path: Path,
) -> tuple[dict[str, tuple[object, str]], dict[str, list[object]], tuple[Plan, ...]]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise StartError(f"{path} is not TOML: it is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and a number of too many digits
        raise StartError(f"{path} is not TOML: {error}") from None
    known = [option.name for option in OPTIONS]
    lists: dict[str, list[object]] = {name: document.pop(name, []) for name in _LISTS}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            raise StartError(f"{path}: {name} must be tables: [[{name}]]")
    plans = _plans(document.pop("plans", {}), path)
    found: dict[str, tuple[object, str]] = {}
    tables = {name.partition(".")[0] for name in known if "." in name}
    for key, value in document.items():
        if (key in tables) is not isinstance(value, dict) and (key in tables or key in known):
            raise StartError(f"{path}: {key} must {'' if key in tables else 'not '}be a table")
        if value == {} and key not in tables:
            raise StartError(f"{path}: {_unknown(key, [*known, *tables, *_LISTS])}")
        inner = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        for name, one in inner.items():
            if name not in known:
                raise StartError(f"{path}: {_unknown(name, [*known, *_LISTS])}")
            found[name] = (one, f"{path}: {name}")
    return found, lists, plans


def _plans(tables: object, path: Path) -> tuple[Plan, ...]:
    if not isinstance(tables, dict):
        raise StartError(f"{path}: plans must be tables: [plans.<name>]")
    plans = []
    for name, table in tables.items():
        place = f"{path}: plans.{name}"
        if not isinstance(table, dict):
            raise StartError(f"{place} must be a table: [plans.{name}]")
        for member in table:
            if member not in PLAN_MEMBERS:
                raise StartError(f"{place}: {_unknown(member, PLAN_MEMBERS)}")
        try:
            plans.append(parse_plan(name, table))
        except ValueError as error:
            raise StartError(f"{place}: {error}") from None
    return tuple(plans)


def _queues(entries: Sequence[object], config: object) -> tuple[DeclaredQueue, ...]:
    declared: dict[tuple[object, str], DeclaredQueue] = {}
    for index, entry in enumerate(entries):
        place = f"{config}: queues[{index}]"
        if not isinstance(entry, dict):
            raise StartError(f"{place} must be a table")
        for key in entry:
            if key not in MEMBERS:
                raise StartError(f"{place}: {_unknown(key, MEMBERS)}")
        try:
            queue = DeclaredQueue.parse(entry)
        except Refused as refusal:
            raise StartError(f"{place}: {refusal.detail}") from None
        if declared.setdefault((queue.home, queue.name), queue) is not queue:
            raise StartError(f"{place}: the queue {queue} is declared twice")
    return tuple(declared.values())


def _policy(entry: object, place: str, settings: Settings) -> TopicPolicy:
    if not isinstance(entry, dict):
        raise StartError(f"{place} must be a table")
    for key in entry:
        if key not in ("filter", "history"):
            raise StartError(f"{place}: {_unknown(key, ['filter', 'history'])}")
    history: object = entry.get("history", True)
    age = None
    try:
        if isinstance(history, dict):
            for key in history:
                if key not in ("messages", "age"):
                    raise Invalid(_unknown(key, ["messages", "age"]))
            # One stream keeps one number of messages for each topic, and nothing beyond its age.
            if history.get("messages", settings.history_messages) != settings.history_messages:
                raise Invalid(f"messages has to be history.messages, {settings.history_messages}, for every topic")
            if "age" in history:
                age = parse_age(history["age"])
                if age > settings.history_age:
                    raise Invalid("age is longer than history.age, which holds for all topics")
        elif not isinstance(history, bool):
            raise Invalid('history must be true, false or { age = "24h" }')
        filter_ = entry.get("filter")
        if not isinstance(filter_, str):
            raise Invalid("filter is missing")
        return TopicPolicy(filter_, history is not False, age)
    except (Invalid, Refused) as error:
        raise StartError(f"{place}: {error}") from None


def load(command_line: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Put the settings together.

    :param command_line: the options given there, by name; ``config`` too.
    :raises StartError: with one sentence that names the place of a value that is not allowed.
    """
    given: dict[str, tuple[object, str]] = {}
    lists: dict[str, list[object]] = {name: [] for name in _LISTS}
    config = command_line.get("config") or environment.get(ENVIRONMENT + "CONFIG")
    plans: tuple[Plan, ...] = ()
    if config:
        given, lists, plans = _from_file(Path(str(config)))
    given.update(_from_environment(environment))
    given.update((name, (value, f"--{name}")) for name, value in command_line.items() if name != "config")

    values: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name not in given:
            continue
        value, place = given[option.name]
        try:
            parsed = option.parse(value)
        except Invalid as error:
            raise StartError(f"{place} {error}") from None
        (limits if option.name.startswith("limits.") else values)[option.field] = parsed
    settings = Settings(**values, limits=Limits(**limits), plans=plans)
    policies = tuple(
        _policy(entry, f"{config}: topics[{index}]", settings) for index, entry in enumerate(lists["topics"])
    )
    queues = _queues(lists["queues"], config)
    # Before twistd goes to another directory.
    files = ("mqtt_client_ca", "master_secret_file", "admin_token_file")
    absolute = {name: path.absolute() for name in files if (path := getattr(settings, name)) is not None}
    return attrs.evolve(settings, policies=policies, queues=queues, data=settings.data.absolute(), **absolute)


class Options(usage.Options):
    """The options of ``twistd flowgate``."""

    synopsis = "[options]"
    longdesc = (
        "A multi-protocol messaging gateway. Every option can also stand in the TOML file, and in the environment "
        "as FLOWGATE_ and its name in capitals."
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: dict[str, Any] = {}

    def _one(self, name: str, value: str) -> None:
        self.given[name] = value

    def _more(self, name: str, value: str) -> None:
        self.given.setdefault(name, []).append(value)

    def opt_data(self, value: str) -> None:
        """The data directory. [default: ./flowgate-data]"""
        self._one("data", value)

    def opt_http(self, value: str) -> None:
        """An endpoint for HTTP and WebSocket; can be repeated. [default: tcp:8080:interface=127.0.0.1]"""
        self._more("http", value)

    def opt_mqtt(self, value: str) -> None:
        """An endpoint for MQTT; can be repeated. [default: tcp:1883:interface=127.0.0.1]"""
        self._more("mqtt", value)

    def opt_nats(self, value: str) -> None:
        """A NATS server to join; can be repeated. [default: a nats-server of our own]"""
        self._more("nats", value)

    def opt_config(self, value: str) -> None:
        """A TOML file with options, limits, topic policies and queues."""
        self._one("config", value)

    def opt_durability(self, value: str) -> None:
        """When our own nats-server flushes to the disk: os (each second) or fsync (always). [default: os]"""
        self._one("durability", value)

    def postOptions(self) -> None:
        try:
            self.settings = load(self.given, os.environ)
        except StartError as error:
            sys.exit(f"flowgate: {error}")  # one sentence, without the list of all options

"""The one-way order of the rooms, read from the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

import flowgate

ROOMS = (
    # pure values
    "errors",
    "topics",
    "message",
    "payloads",
    "limits",
    # pure codecs
    "mqtt.packets",
    "mqtt.session",
    "mqtt.record",
    "websocket.frames",
    "websocket.deflate",
    "http.sse",
    "http.wire",
    "sqs.wire",
    "sqs.query",
    # the pure part of the client
    "client.values",
    "client.refusals",
    "client.http",
    "client.wire",
    "client.actions",
    "client.outgoing",
    "client.streams",
    "client.core",
    "client.driver",
    "client.reading",
    # what the rooms ask of each other
    "interfaces",
    "gate",
    # policy, fan-out, and where they meet the bus
    "auth",
    "allowances",
    "metering",
    "timers",
    "subscriber",
    "router",
    "connections",
    "revoking",
    "repeating",
    "retaining",
    "gateway",
    "replay",
    "reports",
    "rates",
    "figures",
    "presence",
    "queues",
    "webhooks.addresses",
    "webhooks",
    "billing",
    "allowing",
    "metrics",
    "nodes",
    "bus",
    # adapters
    "websocket.opening",
    "mqtt.kept",
    "mqtt.durable",
    "mqtt.sessions",
    "mqtt.subscriptions",
    "mqtt.protocol",
    "mqtt.websocket",
    "websocket",
    "http",
    "sqs",
    "dashboard",
    # the client for asyncio and for Twisted, which uses nothing of the gateway
    "client.aio",
    "client.tx",
    "client",
    # wiring
    "settings",
    "logs",
    "listening",
    "wiring",
    "service",
    "reactor",
    "tap",
    "cli",
    "__main__",
)
"""A module imports only from rooms above its own, and from its own.  A package stands for those of its modules that
have no line of their own."""

PURE = ROOMS[: ROOMS.index("interfaces")]
"""Rooms without Twisted and without a clock."""

_CLIENT = frozenset(room for room in ROOMS if room.startswith("client."))

ONLY_FROM = {
    "bus": frozenset(("errors", "topics", "message", "limits", "interfaces", "gate")),
    **dict.fromkeys((*_CLIENT, "client"), frozenset(("errors", "topics", "message", *_CLIENT))),
}
"""Rooms that use fewer of those above them than the order allows."""

HOME = {"asyncio": ("bus", "tap", "client.aio"), "nats": ("bus",)}
"""Packages of others that are used in some rooms only."""

_ROOT = Path(flowgate.__file__).parent


@attrs.frozen(slots=True)
class Import:
    """One imported name, with its place for the message of a failed test."""

    name: str
    place: str
    at_module_level: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name without ``flowgate.``; the package itself is ``""``."""
    found = {}
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _nodes(tree: ast.AST, at_module_level: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        yield node, at_module_level
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _nodes(node, at_module_level and not inside)


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a module imports, anywhere in it."""
    path = modules()[module]
    found = []
    for node, at_module_level in _nodes(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["flowgate", *module.split(".")]
                package = package[: len(package) - node.level + (path.name == "__init__.py")]
                base = ".".join([*package, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        if names:
            assert isinstance(node, ast.stmt)
            place = f"{path.relative_to(_ROOT.parent)}:{node.lineno}"
            found += [Import(name, place, at_module_level) for name in names]
    return tuple(found)


def room_of(module: str) -> str | None:
    """The room that a module belongs to: its own line, or that of the nearest package."""
    while module and module not in ROOMS:
        module = module.rpartition(".")[0]
    return module or None


def own(one: Import) -> str | None:
    """The module of ours that is imported, if it is one."""
    if one.name.partition(".")[0] != "flowgate":
        return None
    name = one.name.partition(".")[2]
    return name if name in modules() else name.rpartition(".")[0]


class LayerTests(SynchronousTestCase):
    """Data flows one way, and so do the imports."""

    def test_reads_something(self) -> None:
        """The modules and their imports are found."""
        self.assertIn("topics", modules())
        self.assertIn("flowgate.errors.InvalidTopic", [one.name for one in imports("topics")])

    def test_every_module_has_a_room(self) -> None:
        """A module stands in a room, or is the bare package of some and imports nothing."""
        for module in modules():
            if room_of(module) is None:
                self.assertEqual(imports(module), (), f"flowgate.{module} belongs to no room")

    def test_order(self) -> None:
        """A module imports only from rooms above its own, from its own, and the bare package."""
        wrong = []
        for module in modules():
            room = room_of(module)
            for one in imports(module):
                imported = own(one)
                if not imported or room is None:
                    continue
                other = room_of(imported)
                if other is None or ROOMS.index(other) > ROOMS.index(room):
                    wrong.append(f"{one.place}: {module} ({room}) imports {imported} ({other})")
        self.assertEqual(wrong, [])

    def test_narrower_rooms(self) -> None:
        """Some rooms use only a few of those above them."""
        wrong = []
        for module in modules():
            room = room_of(module)
            if room not in ONLY_FROM:
                continue
            for one in imports(module):
                imported = own(one)
                if imported and room_of(imported) not in ONLY_FROM[room] | {room}:
                    wrong.append(f"{one.place}: {module} imports {imported}")
        self.assertEqual(wrong, [])

    def test_pure_rooms(self) -> None:
        """Values and codecs import neither Twisted nor a clock nor sockets."""
        wrong = []
        for module in modules():
            if room_of(module) not in PURE:
                continue
            for one in imports(module):
                if one.name.partition(".")[0] in ("twisted", "zope", "asyncio", "socket", "time", "nats"):
                    wrong.append(f"{one.place}: {one.name}")
        self.assertEqual(wrong, [])

    def test_no_reactor_at_module_level(self) -> None:
        """Importing any module of ours installs no reactor."""
        wrong = []
        for module in modules():
            for one in imports(module):
                if one.at_module_level and (one.name + ".").startswith("twisted.internet.reactor."):
                    wrong.append(one.place)
        self.assertEqual(wrong, [])

    def test_at_home(self) -> None:
        """asyncio and nats stay in the rooms that they belong to."""
        wrong = []
        for module in modules():
            for one in imports(module):
                homes = HOME.get(one.name.partition(".")[0])
                if homes is not None and room_of(module) not in homes:
                    wrong.append(f"{one.place}: {one.name}")
        self.assertEqual(wrong, [])

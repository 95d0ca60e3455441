"""The log as lines of JSON."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Application, Service
from twisted.logger import FilteringLogObserver, ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flowgate.errors import StartError
from flowgate.logs import JsonLines, LoggedService, Troubles, observer
from flowgate.metering import Meter

KEY = "FGAKX77HWLWCFIZ7IA3O"
SECRET = "4xKt9aQ2mLp7Zr0VbNc3WdYe8HfGj1SuTi5OkXq6"
TOKEN = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


class LineTests(SynchronousTestCase):
    """:class:`JsonLines`."""

    def setUp(self) -> None:
        self.file = io.StringIO()
        self.log = Logger("flowgate.somewhere", observer=LogPublisher(JsonLines(self.file)))

    def lines(self) -> list[dict[str, Any]]:
        text = self.file.getvalue()
        self.assertTrue(not text or text.endswith("\n"))
        return [json.loads(line) for line in text.splitlines()]

    def line(self) -> dict[str, Any]:
        [line] = self.lines()
        return line

    def test_interface(self) -> None:
        """It is an observer as twistd wants one."""
        verifyObject(ILogObserver, JsonLines(self.file))

    def test_members(self) -> None:
        """Time, level, logger and message; and the values that the message shows."""
        self.log.warn("request {request_id}: {count} of {name!r}", request_id="r1", count=3, name="x")
        line = self.line()
        self.assertRegex(line.pop("time"), r"\A20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
        self.assertEqual(
            line,
            {
                "level": "warn",
                "logger": "flowgate.somewhere",
                "message": "request r1: 3 of 'x'",
                "request_id": "r1",
                "count": 3,
                "name": "x",
            },
        )

    def test_time(self) -> None:
        """The time is that of the event, in UTC."""
        JsonLines(self.file)({"log_format": "x", "log_time": 1_800_000_000.25})
        self.assertEqual(self.line()["time"], "2027-01-15T08:00:00.250000Z")

    def test_one_line(self) -> None:
        """Line ends, control characters and text that is no Unicode stay inside of one line."""
        self.log.info("{text}", text="a\nb\r\x00\x1b[31m\u2028\ud800")
        self.assertEqual(self.file.getvalue().count("\n"), 1)
        self.assertEqual(self.line()["message"], "a\nb\r\x00\x1b[31m\u2028?")

    def test_nothing_else(self) -> None:
        """Values that the message does not show are not written, and none takes the place of another member."""
        event = {"level": "L", "time": "T", "message": "M", "body": "payload", "token": TOKEN}
        JsonLines(self.file)({"log_format": "{level} {time} {message}", "log_level": LogLevel.info, **event})
        line = self.line()
        self.assertEqual(set(line), {"time", "level", "logger", "message"})
        self.assertEqual((line["level"], line["message"]), ("info", "L T M"))

    def test_values(self) -> None:
        """A value that is no plain one is shown as in the message, and not at any length."""
        values = {"path": Path("/x"), "long": "y" * 5000, "none": None, "flag": True, "big": 2**70}
        self.log.info("{path} {long} {none} {flag} {big}", **values)
        line = self.line()
        self.assertEqual((line["path"], line["none"], line["flag"], line["big"]), ("/x", None, True, str(2**70)))
        self.assertEqual(len(line["long"]), 1000)

    def test_failure(self) -> None:
        """A failure brings its traceback along."""
        try:
            raise ZeroDivisionError("by nothing")
        except ZeroDivisionError:
            self.log.failure("request {request_id} failed", request_id="r1")
        line = self.line()
        self.assertEqual((line["level"], line["request_id"]), ("critical", "r1"))
        self.assertIn("ZeroDivisionError: by nothing", line["traceback"])

    def test_no_secrets(self) -> None:
        """The secret of a key, and a token, are not written, wherever they stand."""
        said = f"{KEY}.{SECRET} and {KEY}:{SECRET} and Bearer {TOKEN}"
        self.log.info("{what}", what=said)
        self.log.info(said.replace("{", "{{"))
        try:
            raise ValueError(said)
        except ValueError:
            self.log.failure("a fault: {said}", said=said)
        self.log.failure("it failed", Failure(ValueError(said)))
        text = self.file.getvalue()
        self.assertEqual(len(self.lines()), 4)
        self.assertIn(KEY, text)  # the public part may be known
        for secret in (SECRET, TOKEN, TOKEN.split(".")[1]):
            self.assertNotIn(secret, text)

    def test_strange_events(self) -> None:
        """An event that cannot be formatted, and one of the old kind, are lines too."""

        class _Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        self.log.info("{broken}", broken=_Broken())
        self.log.info("{", x=1)
        JsonLines(self.file)({"log_text": "old", "log_format": "{log_text}", "log_system": "-"})
        JsonLines(self.file)({})
        lines = self.lines()
        self.assertEqual(len(lines), 4)
        self.assertEqual((lines[2]["message"], lines[2]["logger"]), ("old", "-"))


class PlaceTests(SynchronousTestCase):
    """Where lines go: as twistd decides by its own options."""

    def written(self, **options: Any) -> str:
        """What is written to the standard output."""
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        observer(options)({"log_format": "x"})
        return output.getvalue()

    def test_standard_output(self) -> None:
        """In the foreground, unless a file is named."""
        for options in ({"nodaemon": True}, {"nodaemon": True, "logfile": "-"}, {"nodaemon": True, "logfile": None}):
            self.assertEqual(json.loads(self.written(**options))["message"], "x")

    def test_file(self) -> None:
        """With ``--logfile``; it is opened anew when the operator has moved it away and says so."""
        handlers: dict[int, Callable[..., object]] = {}
        self.patch(signal, "getsignal", lambda number: None)
        self.patch(signal, "signal", handlers.__setitem__)
        name = self.mktemp()
        self.assertEqual(self.written(nodaemon=True, logfile=name), "")
        self.assertEqual(json.loads(Path(name).read_text())["message"], "x")
        self.assertEqual(list(handlers), [signal.SIGUSR1])

    def test_not_possible(self) -> None:
        """Syslog has a form of its own, and a daemon no standard output."""
        for options in ({"syslog": True}, {"logfile": "-"}):
            with self.assertRaises(StartError):
                observer(options)


class ServiceTests(SynchronousTestCase):
    """:class:`LoggedService`."""

    def test_twistd_finds_it(self) -> None:
        """The application that the service is put into has the observer as its own, and the service inside."""
        lines, service = JsonLines(io.StringIO()), Service()
        application: Any = Application("flowgate")
        logged = LoggedService(service, lines)
        logged.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), lines)
        logged.startService()
        self.assertTrue(service.running)
        self.successResultOf(logged.stopService())
        self.assertFalse(service.running)


class TroubleTests(SynchronousTestCase):
    """:class:`Troubles`."""

    def test_counts(self) -> None:
        """Warnings and errors are counted by level; the last error is known, without secrets."""
        meter, moments = Meter(), [1.0]
        troubles = Troubles(meter, lambda: moments[-1])
        verifyObject(ILogObserver, troubles)
        log = Logger("flowgate", observer=LogPublisher(FilteringLogObserver(troubles, [])))
        log.info("nothing")
        log.warn("careful")
        self.assertEqual((troubles.errors, troubles.last, troubles.last_at), (0, "", None))
        log.error("one")
        moments.append(2.0)
        log.critical("two {what}", what=TOKEN)
        self.assertEqual((troubles.errors, troubles.last, troubles.last_at), (2, "two …", 2.0))
        self.assertEqual([meter.count("log_events", level) for level in ("warn", "error", "critical")], [1, 1, 1])

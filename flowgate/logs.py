"""The log as lines of JSON, and the count of what it tells of trouble.

In the usual form the log is twistd's own.  With ``log_format = "json"`` every event is one object on one line, and goes
where twistd would have written it: to the standard output, or to the file of ``--logfile``.  What an event says is what
the text would have said: of its values those are members by themselves which the text shows.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from string import Formatter
from typing import Any, Final, Protocol

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from flowgate.errors import StartError
from flowgate.metering import Meter

_SECRET: Final = re.compile(
    r"(?<=FGAK[A-Z2-7]{16}[.:])[A-Za-z0-9]{16,}"  # the secret part of an API key
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # a token
)
"""What no text of ours says.  A fault's own words could: they are looked through too."""

_LONGEST: Final = 1000
"""Characters of a value that is a member by itself."""

_TROUBLE: Final = (LogLevel.warn, LogLevel.error, LogLevel.critical)


class Writable(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


@implementer(ILogObserver)
class JsonLines:
    """Writes each event as one line of JSON.

    The members are ``time`` (RFC 3339, UTC), ``level``, ``logger`` (the namespace), ``message``, ``request_id`` and
    other values that the message shows, and ``traceback`` of a failure.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        self._file.write(line(event))
        self._file.flush()


def line(event: LogEvent) -> str:
    """An event as one line of JSON, with its end."""
    level = event.get("log_level", LogLevel.info)
    shown: dict[str, object] = {
        "time": _time(event),
        "level": "info" if level is None else level.name,
        "logger": str(event.get("log_namespace", "-")),
        "message": _clean(formatEvent(event)),
    }
    for name, value in _members(event):
        shown.setdefault(name, value)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        shown["traceback"] = _clean(failure.getTraceback())
    # In ASCII, since there are characters that some readers take for the end of a line.
    return json.dumps({name: _text(value) for name, value in shown.items()}) + "\n"


def _time(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _members(event: LogEvent) -> Iterable[tuple[str, object]]:
    """The values that the message shows, by their names."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(event.get("log_format") or "") if name]
    except (ValueError, TypeError):
        return  # the message says that it cannot be formatted
    for name in names:
        if name.startswith("log_") or not name.isidentifier() or name not in event:
            continue
        value = event[name]
        if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**53):
            yield name, value
        else:
            yield name, _clean(formatEvent({"log_format": f"{{{name}}}", name: value}))[:_LONGEST]


def _clean(text: str) -> str:
    return _SECRET.sub("…", text)


def _text(value: object) -> object:
    """A value without halves of pairs of surrogates: they come from bytes that are no text, and are none either."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def observer(twistd: Mapping[str, Any] | None) -> JsonLines:
    """Write lines of JSON where twistd would write its text.

    :param twistd: the options of twistd itself.
    :raises StartError: if that is no file.
    """
    options = twistd or {}
    if options.get("syslog"):
        raise StartError('log_format = "json" and --syslog do not go together')
    name = options.get("logfile") or ""
    if name == "-" and not options.get("nodaemon"):
        raise StartError("a daemon has no standard output: give --logfile or --nodaemon")
    if name == "-" or (options.get("nodaemon") and not name):
        return JsonLines(sys.stdout)
    file = LogFile.fromFullPath(name or "twistd.log")  # type: ignore[no-untyped-call]
    if not signal.getsignal(signal.SIGUSR1):  # as twistd has it: nobody else wants that signal

        def rotate(_number: int, _frame: object) -> None:
            from twisted.internet import reactor

            reactor.callFromThread(file.rotate)  # type: ignore[attr-defined]

        signal.signal(signal.SIGUSR1, rotate)
    return JsonLines(file)


class LoggedService(MultiService):
    """A service whose application logs by an observer of its own; ``--logger`` of twistd goes before it."""

    def __init__(self, service: IService, observer: JsonLines) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        service.setServiceParent(self)  # type: ignore[no-untyped-call]
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        # twistd asks the application for it before anything is logged.
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)  # type: ignore[no-untyped-call]
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]


@implementer(ILogObserver)
class Troubles:
    """Counts warnings and errors, and knows the last error.

    :ivar errors: errors, since the start.
    :ivar last: what the last one said; empty if there was none.
    :ivar last_at: when that was, in seconds since 1970 UTC.
    """

    def __init__(self, meter: Meter, now: Callable[[], float]) -> None:
        self._counts = {level: meter.counter("log_events", level.name) for level in _TROUBLE}
        self._now = now
        self.errors = 0
        self.last = ""
        self.last_at: float | None = None

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level")
        if level not in self._counts:
            return
        self._counts[level].value += 1
        if level is not LogLevel.warn:
            self.errors += 1
            self.last = str(_text(_clean(formatEvent(event))))[:_LONGEST]
            self.last_at = self._now()

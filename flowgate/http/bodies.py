"""What clients write: strict JSON bodies and query strings, with errors that name the member."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from urllib.parse import unquote_to_bytes

import orjson

from flowgate.errors import InvalidJson, InvalidParameter, MissingField, UnsupportedMediaType
from flowgate.http.request import Request

_SHOWN = 40
"""How much of a client's own text is repeated in an error."""

_MISSING = object()

# In a form-encoded query "+" is a space; but as a whole level of a filter it is nearly always meant as the wildcard,
# by those who write URLs by hand, while a space there is nearly never meant.
_WILDCARD = re.compile(rb"(?<![^/])\+(?![^/])")


def _unknown(kind: str, name: str, known: Collection[str]) -> InvalidParameter:
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(sorted(known))}" if known else ""
    return InvalidParameter(f"unknown {kind} {name[:_SHOWN]!r}{hint}")


def check_known(members: Collection[str], known: Collection[str], kind: str = "member") -> None:
    """:raises InvalidParameter: if a name in ``members`` is not ``known``; it names the nearest one."""
    for name in members:
        if name not in known:
            raise _unknown(kind, name, known)


class Members:
    """The members of a JSON object, or the parameters of a query, taken one by one."""

    __slots__ = ("_kind", "_values")

    def __init__(self, values: Mapping[str, object], kind: str = "member") -> None:
        self._values = values
        self._kind = kind

    def only(self, *known: str) -> None:
        """:raises InvalidParameter: if there are others than these; it names the nearest known one."""
        check_known(self._values.keys(), known, self._kind)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> object:
        """:raises MissingField: if it is not there."""
        value = self._values.get(name, _MISSING)
        if value is _MISSING:
            raise MissingField(f"the {self._kind} {name!r} is missing")
        return value

    def _wrong(self, name: str, expected: str) -> InvalidParameter:
        return InvalidParameter(f"the {self._kind} {name!r} must be {expected}")

    def text(self, name: str) -> str:
        """:raises MissingField, InvalidParameter: if it is not there, or not a string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or ``None`` if it is not there or null."""
        return None if self._values.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings, or ``None`` if it is not there or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._wrong(name, "a list of strings")
        return tuple(value)

    def integer(self, name: str, least: int, most: int) -> int | None:
        """An integer in these bounds, or ``None`` if it is not there or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, f"an integer from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        """``true`` or ``false``; ``False`` if it is not there."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def mapping(self, name: str) -> dict[str, object] | None:
        """A JSON object, or ``None`` if it is not there or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value


def media_type(request: Request) -> bytes:
    """The content type without parameters, in lower case; empty if there is none."""
    return request.head.media_type


def media_parameter(request: Request, name: bytes) -> bytes | None:
    """A parameter of the content type (RFC 9110 section 5.6.6), in lower case, or ``None`` if it is not there."""
    fields = request.values(b"content-type")
    for parameter in fields[0].split(b";")[1:] if fields else ():
        key, _, value = parameter.partition(b"=")
        if key.strip().lower() == name:
            return value.strip().strip(b'"').lower()
    return None


def read_object(request: Request) -> dict[str, object]:
    """The body of a request, which has to be a JSON object.

    :raises UnsupportedMediaType: if the body says that it is something else.
    :raises InvalidJson: if it is no JSON, or not an object.
    """
    if media_type(request) not in (b"application/json", b""):
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    value = decode(request.body())
    if not isinstance(value, dict):
        raise InvalidJson("the body must be a JSON object")
    return value


def decode(body: bytes) -> object:
    """A JSON value.

    :raises InvalidJson: if ``body`` is none.
    """
    if not body:
        raise InvalidJson("the body is empty; a JSON object is expected")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from None


def read_query(request: Request, repeated: str = "") -> dict[str, list[str]]:
    """The parameters of the query string; :func:`check_known` tells which of them are unknown.

    :param repeated: the one that may be given more than once; a "+" that makes a whole level in it is the wildcard.
    :raises InvalidParameter: if one is given twice, or is not UTF-8.
    """
    found: dict[str, list[str]] = {}
    for pair in request.uri.partition(b"?")[2].split(b"&"):
        if not pair:
            continue
        raw_name, _, raw = pair.partition(b"=")
        try:
            name = unquote_to_bytes(raw_name).decode()
            if name == repeated:
                raw = _WILDCARD.sub(b"%2B", raw.replace(b"%2F", b"/").replace(b"%2f", b"/"))
            value = unquote_to_bytes(raw.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            raise InvalidParameter("the query is not UTF-8") from None
        values = found.setdefault(name, [])
        if values and name != repeated:
            raise InvalidParameter(f"the parameter {name[:_SHOWN]!r} is given twice")
        values.append(value)
    return found


def query_flag(query: Mapping[str, list[str]], name: str) -> bool:
    """A parameter that is ``true`` or ``false``; ``False`` if it is not there."""
    text = query.get(name, ["false"])[0]
    if text not in ("true", "false"):
        raise InvalidParameter(f"the parameter {name!r} must be true or false")
    return text == "true"


def query_integer(query: Mapping[str, list[str]], name: str, least: int, most: int) -> int | None:
    """An integer parameter in these bounds, or ``None`` if it is not there."""
    values = query.get(name)
    if values is None:
        return None
    text = values[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most):
        raise InvalidParameter(f"the parameter {name!r} must be an integer from {least} to {most}")
    return int(text)

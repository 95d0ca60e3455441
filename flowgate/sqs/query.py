"""The query protocol of SQS: forms and query strings with flattened names, answers in XML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from flowgate.sqs.wire import OPERATIONS, Flag, List, Map, Number, Shape, SqsError, Structure, invalid_value, read

XML_TYPE: Final = b"text/xml"
FORM_TYPE: Final = b"application/x-www-form-urlencoded"

_NAMESPACE: Final = "http://queue.amazonaws.com/doc/2012-11-05/"
_MOST_PARAMETERS: Final = 2000
_MOST_PARTS: Final = 8
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_INDEX = re.compile(r"[0-9]{1,4}\Z")
_ESCAPED = re.compile('[&<>"\r]|[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
# A CR as such would be read as a LF (XML 1.0 section 2.11).
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}


# -- requests


def read_parameters(form: bytes, is_body: bool) -> dict[str, str]:
    """The parameters of a form, or of the query of a URL.

    :param is_body: whether "+" is a space: in a URL Signature Version 4 has it as a plus.
    :raises SqsError: if there are too many, or they are not UTF-8.
    """
    found: dict[str, str] = {}
    pairs = form.split(b"&", _MOST_PARAMETERS)
    if len(pairs) > _MOST_PARAMETERS:
        raise SqsError("SerializationException", f"A request has at most {_MOST_PARAMETERS} parameters.")
    for pair in pairs:
        if pair:
            name, _, value = (pair.replace(b"+", b" ") if is_body else pair).partition(b"=")
            try:
                found[unquote_to_bytes(name).decode()] = unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise SqsError("SerializationException", "The parameters are not UTF-8.") from None
    return found


def operation_of_action(action: str | None) -> str:
    """The operation that ``Action`` names.

    :raises SqsError: if there is no such one.
    """
    if not action:
        raise SqsError("MissingAction", "The request must contain the parameter Action.")
    if action not in OPERATIONS:
        raise SqsError("UnknownOperationException", f"The action {action[:40]} is not valid for this endpoint.")
    return action


def read_query(operation: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The arguments in flattened parameters, as :func:`flowgate.sqs.wire.read_json` has them.

    :raises SqsError: if one is not as it should be, or missing.
    """
    tree: dict[str, Any] = {}
    for name, value in parameters.items():
        *way, last = name.split(".", _MOST_PARTS)
        node = tree
        for part in way:
            below = node.setdefault(part, {})
            if type(below) is not dict:  # "a=1&a.b=2": the second way to give it is not looked at
                break
            node = below
        else:
            node.setdefault(last, value)
    takes = OPERATIONS[operation].takes
    arguments: dict[str, Any] = read(_unflatten(tree, takes), takes, "")
    return arguments


def _unflatten(node: Any, shape: Shape, name: str = "") -> Any:
    """What a part of the tree of parameters is in the JSON protocol; :func:`read` checks the rest."""
    if isinstance(shape, Structure):
        if type(node) is not dict:
            return node
        found = {}
        for member, of in shape.members.items():
            given = node.get(of.item if isinstance(of, List | Map) else member, node.get(member))
            if given is not None:
                found[member] = _unflatten(given, of, member)
        return found
    if isinstance(shape, List):
        return [_unflatten(item, shape.of, shape.item) for item in _numbered(node)]
    if isinstance(shape, Map):
        if type(node) is dict and shape.key in node:  # a single one may come without a number
            node = {"1": node}
        entries = [entry for entry in _numbered(node) if type(entry) is dict]
        return {
            str(entry[shape.key]): _unflatten(entry.get("Value", ""), shape.of, shape.item)
            for entry in entries
            if shape.key in entry
        }
    if isinstance(shape, Number):
        if type(node) is not str or not _INTEGER.match(node):
            raise invalid_value(str(node)[:40], name, "Must be an integer.")
        return int(node)
    return node


def _numbered(node: Any) -> list[Any]:
    """The items of a list by their numbers; a single one may come without."""
    if type(node) is not dict:
        return [node]
    return [node[number] for number in sorted(filter(_INDEX.match, node), key=int)]


# -- answers


def _escape(text: str) -> str:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[0], "\ufffd"), text)


def _write(into: list[str], name: str, value: Any, shape: Shape) -> None:
    if isinstance(shape, List):
        for item in value:
            _write(into, shape.item, item, shape.of)
    elif isinstance(shape, Map):
        for key, item in value.items():
            into.append(f"<{shape.item}><{shape.key}>{_escape(key)}</{shape.key}>")
            _write(into, "Value", item, shape.of)
            into.append(f"</{shape.item}>")
    elif isinstance(shape, Structure):
        into.append(f"<{name}>")
        _write_members(into, value, shape)
        into.append(f"</{name}>")
    else:
        text = ("true" if value else "false") if isinstance(shape, Flag) else _escape(str(value))
        into.append(f"<{name}>{text}</{name}>")


def _write_members(into: list[str], value: Mapping[str, Any], shape: Structure) -> None:
    for member, of in shape.members.items():
        if member in value:
            _write(into, member, value[member], of)


def write_xml(operation: str, result: Mapping[str, Any] | None, request_id: str) -> bytes:
    """The body of an answer."""
    parts = [f'<?xml version="1.0"?><{operation}Response xmlns="{_NAMESPACE}">']
    gives = OPERATIONS[operation].gives
    if gives is not None:
        parts.append(f"<{operation}Result>")
        _write_members(parts, result or {}, gives)
        parts.append(f"</{operation}Result>")
    parts.append(f"<ResponseMetadata><RequestId>{_escape(request_id)}</RequestId></ResponseMetadata>")
    parts.append(f"</{operation}Response>")
    return "".join(parts).encode()


def write_xml_error(error: SqsError, request_id: str) -> bytes:
    """The body of an error."""
    return (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{_NAMESPACE}"><Error>'
        f"<Type>{'Sender' if error.senders_fault else 'Receiver'}</Type>"
        f"<Code>{error.code}</Code><Message>{_escape(error.message)}</Message><Detail/></Error>"
        f"<RequestId>{_escape(request_id)}</RequestId></ErrorResponse>"
    ).encode()

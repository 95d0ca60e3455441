"""Users and API keys as they are stored.

**Nodes of two versions** read and write the same records while a gateway is updated.  A member that this version does
not know is kept as it is and written back, so that a newer node's word is not lost; members with their default are not
written, so that older nodes see nothing new before it is used.  What must not be passed over by an older node raises
:data:`FORMAT`: a record of a higher one is refused, and not guessed at, as is a member of another type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs

from flowgate.auth.permissions import Grants
from flowgate.errors import InvalidParameter, Refused
from flowgate.topics import Namespace

FORMAT: Final = 1
"""The newest records that this version understands."""

MAX_NAME: Final = 100
"""Characters of the name of a key, or of a share."""

UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError, Refused)
"""What reading a record raises if it is not one."""

_PLAN = re.compile(r"[A-Za-z0-9_-]{0,64}\Z")
_R = TypeVar("_R")


def is_a(kind: type) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator that takes no subclass: ``True`` is no number of a stored record."""

    def check(_record: object, field: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not kind:
            raise TypeError(f"{field.name} must be {kind.__name__}")

    return check


def check_name(name: str) -> None:
    """Check what an operator calls something.

    :raises InvalidParameter: if it is too long, or would harm a terminal.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidParameter(f"name has at most {MAX_NAME} characters, all printable")


def check_plan(plan: str) -> None:
    """Check the name of a plan; empty is the default plan.

    :raises InvalidParameter: if it is no name.
    """
    if not _PLAN.match(plan):
        raise InvalidParameter("a plan is at most 64 of A-Z, a-z, 0-9, '_' and '-'")


def dump(record: Any, needed: int, **changed: object) -> bytes:
    """A record as JSON.

    :param needed: so many of its first members are written even if they have their default.
    :param changed: members in place of the record's own.
    """
    members = dict(record.more)
    for index, field in enumerate(attrs.fields(type(record))):
        value = getattr(record, field.name)
        if field.name != "more" and (index < needed or value != field.default):
            members[field.name] = changed.get(field.name, value)
    return json.dumps(members).encode()


def load(kind: type[_R], members: object, **changed: object) -> _R:
    """A record from the members that were read.

    :param changed: members in place of those.
    :raises ValueError, TypeError: if it is none, or one that only a newer version understands.
    """
    if not isinstance(members, dict):
        raise TypeError("a record must be an object")
    if "more" in members or type(members.get("format", 1)) is not int or members.get("format", 1) > FORMAT:
        raise ValueError("the record is for a newer version")
    members = {**members, **changed}
    make: Any = kind
    known = {field.name for field in attrs.fields(make)}
    more = {name: members.pop(name) for name in list(members) if name not in known}
    record: _R = make(**members, more=more)
    return record


@attrs.frozen(slots=True)
class ApiKey:
    """An API key without its secret.

    :ivar id: public; tokens carry it as ``client_id``.
    :ivar created_at: seconds since 1970 UTC.
    :ivar expires_at: seconds since 1970 UTC, or ``None``.
    :ivar successor: the id of the key that it was rotated to; empty if it was not.
    :ivar more: what a newer version has written.
    """

    id: str = attrs.field(validator=is_a(str))
    user: str = attrs.field(validator=is_a(str))
    app: str = attrs.field(validator=is_a(str))
    name: str = attrs.field(validator=is_a(str))
    grants: Grants
    created_at: int = attrs.field(validator=is_a(int))
    expires_at: int | None = attrs.field(default=None, validator=attrs.validators.optional(is_a(int)))
    disabled: bool = attrs.field(default=False, validator=is_a(bool))
    successor: str = attrs.field(default="", validator=is_a(str))
    more: Mapping[str, object] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def home(self) -> Namespace:
        return Namespace(self.user, self.app)

    def to_json(self) -> bytes:
        return dump(self, 8, grants=self.grants.to_claim())

    @classmethod
    def from_json(cls, data: bytes) -> ApiKey:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError, KeyError, Refused: if it is something else.
        """
        members = json.loads(data)
        key = load(cls, members, grants=Grants.from_claim(members["grants"]))
        Namespace.checked(key.user, key.app)
        return key


@attrs.frozen(slots=True)
class User:
    """A user.

    :ivar created_at: seconds since 1970 UTC.
    :ivar plan: the name of the plan; empty for the default one.
    :ivar deleted: there is no such user any more, and never again one of this name: what is left of the topics and
        queues would be theirs.
    :ivar more: what a newer version has written.
    """

    name: str = attrs.field(validator=is_a(str))
    created_at: int = attrs.field(validator=is_a(int))
    suspended: bool = attrs.field(default=False, validator=is_a(bool))
    plan: str = attrs.field(default="", validator=is_a(str))
    deleted: bool = attrs.field(default=False, validator=is_a(bool))
    more: Mapping[str, object] = attrs.field(factory=dict, repr=False, hash=False)

    def to_json(self) -> bytes:
        return dump(self, 3)

    @classmethod
    def from_json(cls, data: bytes) -> User:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError: if it is something else.
        """
        return load(cls, json.loads(data))

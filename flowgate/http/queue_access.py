"""Who may call what of the queues, and with which parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from flowgate.auth.permissions import Principal, QueueVerb
from flowgate.errors import InsufficientScope, InvalidParameter
from flowgate.http.bodies import Members, check_known, read_object, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.request import Request

Query = dict[str, list[str]]


class QueueAccess:
    """The checks that come before every call."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def admit(self, request: Request, name: str | None = None, *verbs: QueueVerb) -> Principal:
        """Find who asks, who has to hold a grant for one of ``verbs`` with the queue ``name``, if the call is of one.

        A call whose values are in its body takes none in the query: ``…/receive?wait=20`` by POST would not wait.

        :raises MissingToken, InvalidToken: if nobody is known to ask.
        :raises InsufficientScope: if the queue is not granted.
        :raises InvalidParameter: if there are parameters.
        """
        principal = self.admit_any(request, name, *verbs)
        if b"?" in request.uri:
            check_known(read_query(request), (), "parameter")
        return principal

    def admit_query(
        self, request: Request, name: str | None, known: Collection[str], *verbs: QueueVerb
    ) -> tuple[Principal, Query]:
        """The same for a call whose values are in its query; give that too."""
        principal = self.admit_any(request, name, *verbs)
        query = read_query(request)
        check_known(query, known, "parameter")
        return principal, query

    def admit_any(self, request: Request, name: str | None, *verbs: QueueVerb) -> Principal:
        """The same for a call that looks at its query by itself."""
        principal = self._credentials.principal(request)
        if name is not None:
            check_grant(principal, name, *verbs)
        return principal


_WORDS: Final[Mapping[QueueVerb, str]] = {
    "send": "sending to",
    "receive": "receiving from",
    "manage": "managing",
}


def check_grant(principal: Principal, name: str, *verbs: QueueVerb) -> None:
    """Check that one of ``verbs`` is granted for the queue ``name``; without any: that anything is.

    :raises InsufficientScope: if not.
    """
    if not principal.grants.may_use_queue(name, *verbs):
        what = " or ".join(_WORDS[verb] for verb in verbs) or "using"
        raise InsufficientScope(f"the token does not permit {what} this queue")


def optional_members(request: Request, *known: str) -> Members:
    """The members of a body that may be left out."""
    body = Members(read_object(request) if request.body() else {})
    body.only(*known)
    return body


def no_members(request: Request) -> None:
    """:raises InvalidParameter: if a call that has no values brings some."""
    if request.body():
        optional_members(request)


def one_value(query: Query, name: str, default: str = "") -> str:
    """A parameter's text; ``default`` if it is not there."""
    values = query.get(name, [default])
    if len(values) > 1:
        raise InvalidParameter(f"the parameter {name!r} is given twice")
    return values[0]

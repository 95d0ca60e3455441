"""Who may administrate, and what all of its calls have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowgate.auth.audit import Actor
from flowgate.http.bodies import check_known, query_integer, read_query
from flowgate.http.operators import AdminToken
from flowgate.http.request import Request

MOST: Final = 1000
"""Entries of the longest page."""


class AdminAccess:
    """Lets administrators in."""

    def __init__(self, token: str) -> None:
        self._token = AdminToken(token)

    def admit(self, request: Request) -> Actor:
        """Let the administrator pass to a call that takes no parameters; who that is, for the audit log.

        :raises MissingToken, InvalidToken, MalformedCredentials: as :meth:`AdminToken.admit` does.
        :raises InvalidParameter: if there are parameters.
        """
        self._token.admit(request)
        check_known(read_query(request), (), "parameter")
        return Actor("admin", address=request.address, request_id=request.request_id)

    def admit_query(self, request: Request, *known: str) -> dict[str, list[str]]:
        """Let the administrator pass to a call whose values are in its query, which is given.

        :raises MissingToken, InvalidToken, MalformedCredentials: as :meth:`AdminToken.admit` does.
        :raises InvalidParameter: if there are other parameters than ``known``.
        """
        self._token.admit(request)
        query = read_query(request)
        check_known(query, known, "parameter")
        return query


def one_of(query: Mapping[str, list[str]], name: str) -> str:
    """A parameter's value; empty if it is not there."""
    return query.get(name, [""])[0]


def limit_of(query: Mapping[str, list[str]], default: int = MOST) -> int:
    """How many entries are wanted.

    :raises InvalidParameter: if it is no number from 1 to :data:`MOST`.
    """
    return query_integer(query, "limit", 1, MOST) or default

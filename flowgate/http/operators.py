"""Who holds the admin token."""

from __future__ import annotations

import hmac

from flowgate.errors import InvalidToken, MissingToken
from flowgate.http.credentials import authorization
from flowgate.http.request import Request


class AdminToken:
    """The administrator's token, and whether a request brings it."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def admit(self, request: Request) -> None:
        """Let the administrator pass.

        :raises MissingToken: if there is no token.
        :raises InvalidToken: if it is another one.
        :raises MalformedCredentials: if it cannot be read.
        """
        scheme, token = authorization(request)
        if scheme != "bearer":
            raise MissingToken("the admin token is required: Authorization: Bearer <admin token>")
        if not hmac.compare_digest(token.encode(), self._token):
            raise InvalidToken("this is not the admin token")

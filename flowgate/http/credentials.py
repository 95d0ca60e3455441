"""Who asks: bearer tokens of requests (RFC 6750)."""

from __future__ import annotations

from flowgate.auth.permissions import Principal
from flowgate.auth.tokens import TokenService
from flowgate.errors import InvalidToken, MissingToken
from flowgate.http.problems import MalformedCredentials
from flowgate.http.request import Request


def authorization(request: Request) -> tuple[str, str]:
    """The scheme, in lower case, and the rest of the ``Authorization`` header; both empty without one.

    :raises MalformedCredentials: if it is there twice, is not ASCII, or has nothing but a scheme.
    """
    fields = request.values(b"authorization")
    if not fields:
        return "", ""
    if len(fields) > 1:
        raise MalformedCredentials("there is more than one Authorization header")
    try:
        scheme, _, rest = fields[0].decode("ascii").partition(" ")
    except UnicodeDecodeError:
        raise MalformedCredentials("the Authorization header is not ASCII") from None
    rest = rest.strip(" ")
    if not rest or " " in rest:
        raise MalformedCredentials("the Authorization header has the form: Bearer <token>")
    return scheme.lower(), rest


class Credentials:
    """Finds the principal of a request."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    def principal(self, request: Request, query_token: str | None = None) -> Principal:
        """Find who asks.

        :param query_token: the token of the query string, where that is allowed.
        :raises MissingToken: if there is none.
        :raises InvalidToken: if it is wrong, expired or revoked.
        :raises MalformedCredentials: if it cannot be read, or came in two ways.
        """
        head = request.head
        if query_token is None and head.bearer is not None:
            return self._tokens.verify(head.bearer)
        scheme, token = authorization(request)
        if query_token is not None:
            if scheme:
                raise MalformedCredentials("a token is given in the Authorization header or in the query, not in both")
            token = query_token
        elif scheme != "bearer":
            raise MissingToken("a token is required: Authorization: Bearer <token>")
        if not token.isascii():
            raise InvalidToken()
        if query_token is None:
            head.bearer = token  # heads are read once and then known
        return self._tokens.verify(token)

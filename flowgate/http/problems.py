"""Refusals in HTTP's words: problem documents (RFC 9457) and the header fields that belong to them."""

from __future__ import annotations

from flowgate.errors import InsufficientScope, InvalidParameter, InvalidToken, MissingToken, Refused

PROBLEM_JSON = b"application/problem+json"

REALM = 'Bearer realm="flow-gate"'


class MalformedCredentials(InvalidParameter):
    """Credentials that cannot be read, or that came in two ways (RFC 6750 section 3.1, ``invalid_request``)."""


# RFC 6750 section 3.1; the description is the general one, so that nothing of a request gets into a header field.
_CHALLENGES: tuple[tuple[type[Refused], str], ...] = (
    (MissingToken, REALM),  # "SHOULD NOT include an error code": the client may not have known that it needs a token
    (InvalidToken, f'{REALM}, error="invalid_token", error_description="{InvalidToken.title}"'),
    (InsufficientScope, f'{REALM}, error="insufficient_scope", error_description="{InsufficientScope.title}"'),
    (MalformedCredentials, f'{REALM}, error="invalid_request"'),
)


def problem(refusal: Refused, request_id: str) -> dict[str, object]:
    """The problem document for a refusal, as a JSON object."""
    return {
        **refusal.members,
        "type": f"/docs/problems/{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        # RFC 9457 section 5: what went wrong inside is nobody's business outside.
        "detail": refusal.title if refusal.status == 500 else refusal.detail,
        "code": refusal.code,
        "request_id": request_id,
    }


def problem_headers(refusal: Refused) -> tuple[tuple[bytes, bytes], ...]:
    """``WWW-Authenticate`` and ``Retry-After``, where the refusal has them."""
    headers: list[tuple[bytes, bytes]] = []
    for kind, challenge in _CHALLENGES:
        if isinstance(refusal, kind):
            headers.append((b"WWW-Authenticate", challenge.encode()))
            break
    if refusal.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % refusal.retry_after))
    return tuple(headers)

"""Refusals in HTTP's words: problem documents (RFC 9457) and the header fields that belong to them."""

from __future__ import annotations

from functools import lru_cache

from flowgate.errors import InsufficientScope, InvalidParameter, InvalidToken, MissingToken, RateLimited, Refused
from flowgate.limits import Standing

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


_UNITS = {"bytes": ';qu="content-bytes"'}
"""What a policy counts, by its name, if that is not the usual one: requests, of which each message is one."""


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


@lru_cache(maxsize=1000)  # those who publish a lot are told the same again and again
def rate_headers(standings: tuple[Standing, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-10 sections 3 and 4)."""
    if not standings:
        return ()
    policies = ", ".join(
        f'"{one.policy}";q={one.quota}{_UNITS.get(one.policy, "")};w={one.window}' for one in standings
    )
    limits = ", ".join(f'"{one.policy}";r={one.remaining};t={one.reset}' for one in standings)
    return (b"RateLimit-Policy", policies.encode()), (b"RateLimit", limits.encode())


def problem_headers(refusal: Refused) -> tuple[tuple[bytes, bytes], ...]:
    """``WWW-Authenticate``, ``Retry-After`` and the fields of rates, where the refusal has them."""
    headers: list[tuple[bytes, bytes]] = []
    for kind, challenge in _CHALLENGES:
        if isinstance(refusal, kind):
            headers.append((b"WWW-Authenticate", challenge.encode()))
            break
    if refusal.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % refusal.retry_after))
    if isinstance(refusal, RateLimited):
        headers += rate_headers(refusal.standings)
    return tuple(headers)

"""From what the gateway says to the class of :mod:`flowgate.errors` that it means."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from flowgate import errors
from flowgate.errors import Refused

_MEANT = frozenset(("action", "code", "detail", "error", "error_description", "id", "request_id", "retry_after"))


def _kinds() -> dict[str, type[Refused]]:
    found: dict[str, type[Refused]] = {"internal": errors.Internal}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Refused) and kind is not Refused and "code" in vars(kind):
            found[kind.code] = kind
    return found


_KINDS = _kinds()


def refusal(frame: Mapping[str, object], status: int = 500, retry_after: int | None = None) -> Refused:
    """The refusal that an error frame, a problem document (RFC 9457) or an OAuth error (RFC 6749) tells of.

    :param frame: the decoded JSON object; members that are missing or of another type do no harm.
    :param status: of the answer, if the object has none.
    :param retry_after: seconds, if the object has none.
    :returns: a class of :mod:`flowgate.errors` by ``code``; for a code that is not known here a :class:`Refused`
        with just that ``code`` and ``status``.
    """
    code, after = frame.get("code"), frame.get("retry_after")
    said = frame.get("detail") or frame.get("error_description") or frame.get("title")
    detail = " ".join(said.split()) if isinstance(said, str) else ""
    found = frame.get("status")
    status = found if isinstance(found, int) else status
    kind = _KINDS.get(code) if isinstance(code, str) else None
    if kind is None:
        title = f"the gateway answered with status {status}"
        name = code if isinstance(code, str) else f"http_{status}"
        kind = type("Refused", (Refused,), {"status": status, "code": name, "title": title})
    members = {name: value for name, value in frame.items() if name not in (*_MEANT, "status", "title", "type")}
    made = kind(detail, retry_after=after if isinstance(after, int) else retry_after)
    made.members.update(members)
    return made


def answered(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The refusal in an HTTP answer.

    :param headers: by lower-case name; of ``Retry-After`` the form with seconds is understood.
    """
    after = headers.get("retry-after", "")
    try:
        frame = orjson.loads(body)
    except orjson.JSONDecodeError:
        frame = None
    seconds = int(after) if after.isascii() and after.isdigit() and len(after) < 8 else None
    return refusal({**frame, "status": status} if isinstance(frame, dict) else {}, status, seconds)


def closed(code: int, reason: str, detail: str = "") -> Refused:
    """The refusal that a close code of the gateway (4400–4599) and its reason tell of."""
    status = code - 4000 if 4400 <= code < 4600 else 500
    kind = _KINDS.get(reason)
    said = detail or (kind.title if kind is not None else f"the connection was closed with {code} {reason}".rstrip())
    return refusal({"code": reason if kind is not None else f"closed_{code}", "detail": said}, status)


def final(status: int) -> bool:
    """Whether coming again with the same request is of no use."""
    return 400 <= status < 500 and status not in (401, 408, 409, 425, 429)

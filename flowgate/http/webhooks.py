"""``/api/v1/webhooks…``: what is published on topics, sent to URLs."""

from __future__ import annotations

from collections.abc import Callable

from flowgate.auth.permissions import Principal
from flowgate.errors import InsufficientScope, InvalidTopic
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, check_known, query_integer, read_object, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.queue_access import check_grant, no_members, one_value
from flowgate.http.request import Request
from flowgate.topics import RESERVED, Namespace, check_filter, is_reserved, resolve
from flowgate.webhooks.model import MAX_RECEIVES, RECEIVES, Webhook
from flowgate.webhooks.service import MAX_WEBHOOKS, Admit, Made, Wanted, Webhooks

_WEBHOOKS = "/api/v1/webhooks"
_WEBHOOK = f"{_WEBHOOKS}/<name>"


class WebhookCalls:
    """Translates between HTTP and the webhooks.

    Whoever may subscribe to a webhook's topics may see, change and remove it.
    """

    def __init__(self, webhooks: Webhooks, credentials: Credentials) -> None:
        self._webhooks = webhooks
        self._credentials = credentials

    def routes(self) -> list[Route]:
        return [
            Route("GET", _WEBHOOKS, self.page),
            Route("PUT", _WEBHOOK, self.configure),
            Route("GET", _WEBHOOK, self.describe),
            Route("DELETE", _WEBHOOK, self.remove),
            Route("POST", f"{_WEBHOOK}/secret", self.renew_secret),
        ]

    def _admit(self, request: Request) -> Principal:
        principal = self._credentials.principal(request)
        check_known(read_query(request), (), "parameter")
        return principal

    async def page(self, request: Request) -> Answer:
        principal = self._credentials.principal(request)
        query = read_query(request)
        check_known(query, ("prefix", "limit", "cursor"), "parameter")
        limit = query_integer(query, "limit", 1, MAX_WEBHOOKS) or MAX_WEBHOOKS
        found = self._webhooks.listing(principal.home, one_value(query, "prefix"), one_value(query, "cursor"))
        granted = [one for one in found if _may_remove(principal, one)]
        shown = [_shown(principal, one) for one in granted[:limit]]
        return json_answer({"webhooks": shown, "next": shown[-1]["name"] if len(granted) > limit else None})

    async def configure(self, request: Request, name: str) -> Answer:
        principal = self._admit(request)
        body = Members(read_object(request))
        body.only("topic", "url", "dead_letter", "max_receives")
        topic = body.text("topic")
        resolved = resolve(topic, principal.home, principal.grants.namespaces)
        if not principal.grants.may_subscribe(resolved.namespace, resolved.rest):
            raise InsufficientScope("the token does not permit subscribing to this filter")
        check_filter(resolved.rest)
        if is_reserved(resolved.rest):
            raise InvalidTopic(f"{RESERVED} holds figures that are not stored: no webhook can have them")
        dead_letter = body.optional_text("dead_letter")
        if dead_letter is not None:
            check_grant(principal, dead_letter, "send", "manage")
        wanted = Wanted(
            resolved.namespace.prefix + resolved.rest,
            resolved.full,
            body.text("url"),
            dead_letter,
            body.integer("max_receives", 1, MAX_RECEIVES) or RECEIVES,
        )
        made = await self._webhooks.configure(principal.home, name, wanted, _admits(principal))
        return json_answer(_shown_made(principal, made), 200 if made.secret is None else 201)

    async def describe(self, request: Request, name: str) -> Answer:
        principal = self._admit(request)
        webhook = await self._webhooks.describe(principal.home, name, _admits(principal, _may_remove))
        standing = await self._webhooks.standing(webhook)
        last = standing.last
        return json_answer(
            {
                **_shown(principal, webhook),
                "stats": {"waiting": standing.waiting, "oldest_age_seconds": standing.oldest_age_seconds},
                "last_failure": None if last is None else {"at": last.at, "reason": last.reason},
            }
        )

    async def remove(self, request: Request, name: str) -> Answer:
        principal = self._admit(request)
        await self._webhooks.remove(principal.home, name, _admits(principal, _may_remove))
        return NO_CONTENT

    async def renew_secret(self, request: Request, name: str) -> Answer:
        principal = self._admit(request)
        no_members(request)
        made = await self._webhooks.renew_secret(principal.home, name, _admits(principal))
        return json_answer(_shown_made(principal, made))


def _granted(principal: Principal, webhook: Webhook) -> bool:
    user, app, rest = webhook.filter.split("_", 2)
    return principal.grants.may_subscribe(Namespace(user, app), rest)


def _may_remove(principal: Principal, webhook: Webhook) -> bool:
    """Whether a principal may know of a webhook, and remove it.

    For one of another application's topics, all of the own is enough: the grant may have ended with a share.
    """
    user, app, _ = webhook.filter.split("_", 2)
    elsewhere = Namespace(user, app) != principal.home
    return _granted(principal, webhook) or (elsewhere and principal.grants.may_subscribe(principal.home, "#"))


def _admits(principal: Principal, permitted: Callable[[Principal, Webhook], bool] = _granted) -> Admit:
    def admit(webhook: Webhook) -> None:
        if not permitted(principal, webhook):
            raise InsufficientScope("the token does not permit subscribing to this webhook's topics")

    return admit


def _shown(principal: Principal, webhook: Webhook) -> dict[str, object]:
    user, app, rest = webhook.filter.split("_", 2)
    short = not webhook.full and Namespace(user, app) == principal.home
    return {
        "name": webhook.name,
        "topic": rest if short else webhook.filter,
        "url": webhook.url,
        "dead_letter": webhook.dead_letter,
        "max_receives": webhook.max_receives,
        "status": webhook.state.value,
        "created_at": webhook.created_at,
        "modified_at": webhook.modified_at,
    }


def _shown_made(principal: Principal, made: Made) -> dict[str, object]:
    shown = _shown(principal, made.webhook)
    return shown if made.secret is None else {**shown, "secret": made.secret}

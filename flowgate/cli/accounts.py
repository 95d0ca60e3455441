"""``flowgate key``, ``flowgate user``, ``flowgate share`` and ``flowgate audit``: what administrators do."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlencode

from flowgate.cli.api import Api
from flowgate.cli.terminal import one_line, say

_PAGE = 1000


def _part(text: str) -> str:
    """A text as one part of a path, whatever it holds."""
    return quote(text, safe="")


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%MZ")


async def _all(api: Api, path: str, member: str, **parameters: str | None) -> list[Any]:
    """What a list holds, page after page."""
    wanted = {name: value for name, value in parameters.items() if value}
    found: list[Any] = []
    while True:
        page = await api.admin("GET", path + ("?" + urlencode(wanted) if wanted else ""))
        found += page[member]
        if page.get("next") is None:
            return found
        wanted["cursor"] = page["next"]


# -- keys


async def key_create(api: Api, options: argparse.Namespace) -> None:
    body: dict[str, object] = {"user": options.user, "app": options.app}
    for name, value in (("name", options.name), ("publish", options.publish), ("subscribe", options.subscribe)):
        if value:
            body[name] = value
    if options.queue:
        body["queues"] = options.queue
    if options.expires is not None:
        body["expires_days"] = options.expires
    answer = await api.admin("POST", "/keys", body)
    say(json.dumps(answer) if options.json else answer["key"])


async def key_list(api: Api, options: argparse.Namespace) -> None:
    keys = await _all(api, "/keys", "keys", user=options.user, app=options.app)
    if options.json:
        say(json.dumps(keys))
        return
    for key in keys:
        state = "revoked" if key["disabled"] else "rotated" if key.get("successor") else "active"
        used = f"used {_time(key.get('last_used_at'))}"
        say(f"{key['id']}  {key['user']}/{key['app']}  {state}  {used}  {one_line(key['name'])}".rstrip())


async def key_rotate(api: Api, options: argparse.Namespace) -> None:
    body = {} if options.overlap is None else {"overlap_seconds": options.overlap}
    answer = await api.admin("POST", f"/keys/{_part(options.id)}/rotate", body)
    say(json.dumps(answer) if options.json else answer["key"])


async def key_revoke(api: Api, options: argparse.Namespace) -> None:
    await api.admin("DELETE", f"/keys/{_part(options.id)}")


# -- users


async def user_create(api: Api, options: argparse.Namespace) -> None:
    body = {"user": options.user}
    if options.plan:
        body["plan"] = options.plan
    await api.admin("POST", "/users", body)


async def user_list(api: Api, options: argparse.Namespace) -> None:
    users = await _all(api, "/users", "users")
    if options.json:
        say(json.dumps(users))
        return
    for user in users:
        state = "suspended" if user["suspended"] else "active"
        say(f"{user['user']}  {state}  {user.get('plan') or ''}".rstrip())


async def user_show(api: Api, options: argparse.Namespace) -> None:
    user = await api.admin("GET", f"/users/{_part(options.user)}")
    if options.json:
        say(json.dumps(user))
        return
    say(f"user: {user['user']}")
    say(f"made: {_time(user['created_at'])}")
    say(f"state: {'suspended' if user['suspended'] else 'active'}")
    say(f"plan: {user['plan'] or '(default)'}")
    say(f"applications: {', '.join(user['apps']) or '(none)'}")
    say(f"good keys: {user['keys']}")


async def user_suspend(api: Api, options: argparse.Namespace) -> None:
    await api.admin("POST", f"/users/{_part(options.user)}/suspend", {"suspended": not options.resume})


async def user_resume(api: Api, options: argparse.Namespace) -> None:
    await api.admin("POST", f"/users/{_part(options.user)}/suspend", {"suspended": False})


async def user_plan(api: Api, options: argparse.Namespace) -> None:
    await api.admin("PUT", f"/users/{_part(options.user)}/plan", {"plan": options.plan})


async def user_delete(api: Api, options: argparse.Namespace) -> None:
    await api.admin("DELETE", f"/users/{_part(options.user)}")


# -- shares


async def share_create(api: Api, options: argparse.Namespace) -> None:
    body = {"owner": options.owner, "app": options.app, "grantee": options.grantee}
    for name in ("grantee_app", "publish", "subscribe", "name"):
        value = getattr(options, name)
        if value:
            body[name] = value
    answer = await api.admin("POST", "/shares", body)
    say(json.dumps(answer) if options.json else answer["id"])


async def share_list(api: Api, options: argparse.Namespace) -> None:
    shares = await _all(api, "/shares", "shares", owner=options.owner, grantee=options.grantee)
    if options.json:
        say(json.dumps(shares))
        return
    for share in shares:
        whom = share["grantee"] + (f"/{share['grantee_app']}" if share["grantee_app"] else "")
        what = [f"publish {one}" for one in share["publish"]] + [f"subscribe {one}" for one in share["subscribe"]]
        say(f"{share['id']}  {share['owner']}/{share['app']} to {whom}  {one_line(', '.join(what))}")


async def share_revoke(api: Api, options: argparse.Namespace) -> None:
    await api.admin("DELETE", f"/shares/{_part(options.id)}")


# -- the audit log


async def audit(api: Api, options: argparse.Namespace) -> None:
    wanted: dict[str, object] = {"user": options.user} if options.user else {}
    left = options.max
    while left > 0:
        page = await api.admin("GET", "/audit?" + urlencode({**wanted, "limit": min(left, _PAGE)}))
        for entry in page["entries"]:
            say(json.dumps(entry) if options.json else _line(entry))
        left -= len(page["entries"])
        if page["next"] is None:
            return
        wanted["before"] = page["next"]


def _line(entry: Any) -> str:
    who = entry["actor"] + (f" {entry['actor_name']}" if entry["actor_name"] else "")
    where = f" from {entry['address']}" if entry["address"] else ""
    refused = f"  refused: {entry['refused']}" if entry["refused"] else ""
    detail = json.dumps(entry["detail"], ensure_ascii=False) if entry["detail"] else ""
    return one_line(f"{entry['at']}  {who}{where}  {entry['action']} {entry['subject']}{refused}  {detail}".rstrip())

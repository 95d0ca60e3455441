"""``flowgate queue``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from flowgate.cli.api import Api, Failed
from flowgate.cli.terminal import api_key, one_line, read_input, say


def _queue(options: argparse.Namespace) -> str:
    return f"/api/v1/queues/{quote(options.queue_name, safe='')}"


def _given(options: argparse.Namespace, **members: str) -> dict[str, object]:
    """The members of a body whose options were given."""
    values = {member: getattr(options, option) for member, option in members.items()}
    return {member: value for member, value in values.items() if value is not None}


def _pairs(pairs: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise Failed(f"{pair!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


async def create(api: Api, options: argparse.Namespace) -> None:
    body = _given(
        options,
        visibility="visibility",
        delay="delay",
        receive_wait="wait",
        retention="retention",
        max_message_bytes="max_bytes",
        content_dedup="content_dedup",
        dedup_scope="dedup_scope",
    )
    if options.dead_letter is not None:
        body["dead_letter"] = {"queue": options.dead_letter, **_given(options, max_receives="max_receives")}
    elif options.max_receives is not None:
        raise Failed("--max-receives needs --dead-letter")
    if options.tag:
        body["tags"] = _pairs(options.tag)
    bearer = await api.token(api_key(options))
    answer = await api.json("PUT", _queue(options), body, bearer)
    if options.json:
        say(json.dumps(answer))


async def list_all(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    queues: list[dict[str, Any]] = []
    query = f"prefix={quote(options.prefix, safe='')}&limit=1000"
    cursor = ""
    while True:
        page = await api.json("GET", f"/api/v1/queues?{query}{cursor}", token=bearer)
        queues += page["queues"]
        if page["next"] is None:
            break
        cursor = f"&cursor={quote(page['next'], safe='')}"
    if options.json:
        say(json.dumps(queues))
        return
    for queue in queues:
        config = queue["config"]
        dead = f"  dead letters to {config['dead_letter']['queue']}" if config["dead_letter"] else ""
        say(f"{queue['name']}  {config['type']}{dead}")


async def delete(api: Api, options: argparse.Namespace) -> None:
    await api.json("DELETE", _queue(options), token=await api.token(api_key(options)))


async def send(api: Api, options: argparse.Namespace) -> None:
    body = _given(options, delay="delay", group="group", dedup_id="dedup_id")
    if options.attribute:
        body["attributes"] = _pairs(options.attribute)
    bearer = await api.token(api_key(options))
    answer = await api.json("POST", f"{_queue(options)}/messages", {"body": read_input(options.body), **body}, bearer)
    say(json.dumps(answer) if options.json else answer["id"])


def _body(message: dict[str, Any]) -> str:
    text: str = message["body"] if "body" in message else message["body_base64"]
    return text


async def receive(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    body = {"max": options.max, "wait": options.wait}
    if options.visibility is not None:
        body["visibility"] = options.visibility
    messages = (await api.json("POST", f"{_queue(options)}/messages/receive", body, bearer))["messages"]
    if options.json:
        say(json.dumps(messages))
    for message in messages:
        if not options.json:
            say(_body(message) if options.delete else f"{message['receipt']}\t{one_line(_body(message))}")
        if options.delete:
            await api.json("DELETE", f"{_queue(options)}/messages/{quote(message['receipt'], safe='')}", token=bearer)


async def stats(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    stats = (await api.json("GET", _queue(options), token=bearer))["stats"]
    say(json.dumps(stats) if options.json else "\n".join(f"{name}: {value}" for name, value in stats.items()))


async def purge(api: Api, options: argparse.Namespace) -> None:
    await api.json("POST", f"{_queue(options)}/purge", token=await api.token(api_key(options)))


async def peek(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    answer = await api.json("GET", f"{_queue(options)}/messages/peek?limit={options.max}", token=bearer)
    if options.json:
        say(json.dumps(answer["messages"]))
        return
    for message in answer["messages"]:
        say(f"{message['id']}\t{message['receive_count']}\t{one_line(_body(message))}")


async def redrive(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    path = f"{_queue(options)}/redrive"
    if options.list:
        tasks = (await api.json("GET", path, token=bearer))["tasks"]
        if options.json:
            say(json.dumps(tasks))
            return
        for task in tasks:
            say(f"{task['task']}  {task['status']}  {task['moved']} of {task['to_move']}")
    elif options.cancel is not None:
        task = await api.json("DELETE", f"{path}/{quote(options.cancel, safe='')}", token=bearer)
        say(json.dumps(task) if options.json else str(task["moved"]))
    else:
        body = _given(options, destination="to", max_per_second="rate")
        task = await api.json("POST", path, body, bearer)
        say(json.dumps(task) if options.json else task["task"])


async def subscribe(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    path = f"{_queue(options)}/subscriptions"
    if options.filter is not None:
        await api.json("PUT", path, {"topic": options.filter}, bearer)
        return
    subscriptions = (await api.json("GET", path, token=bearer))["subscriptions"]
    if options.json:
        say(json.dumps(subscriptions))
        return
    for subscription in subscriptions:
        say(one_line(subscription["topic"]))


async def unsubscribe(api: Api, options: argparse.Namespace) -> None:
    bearer = await api.token(api_key(options))
    await api.json("DELETE", f"{_queue(options)}/subscriptions", {"topic": options.filter}, bearer)

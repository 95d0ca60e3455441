"""Queues."""

from __future__ import annotations

from itertools import chain
from typing import Any

from tests.integration.scenarios.stage import Stage, equal, scenario, together, true


def _receive(stage: Stage, queue: str, **options: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = stage.good("POST", f"queues/{queue}/messages/receive", options)["messages"]
    return messages


def _delete(stage: Stage, queue: str, messages: list[dict[str, Any]]) -> None:
    if messages:
        receipts = [one["receipt"] for one in messages]
        answer = stage.good("POST", f"queues/{queue}/messages/delete", {"receipts": receipts})
        equal(answer["failed"], [])


def _send(stage: Stage, queue: str, bodies: list[str], **more: Any) -> None:
    for start in range(0, len(bodies), 10):
        some = [{"id": str(index), "body": body, **more} for index, body in enumerate(bodies[start : start + 10])]
        equal(stage.good("POST", f"queues/{queue}/messages/batch", {"messages": some})["failed"], [])


@scenario
def every_job_once(stage: Stage) -> None:
    """Workers at the same time: each message is handed to one of them, and when all are deleted the queue is empty."""
    jobs = stage.words(60)
    _send(stage, "jobs", jobs)

    def work() -> list[str]:
        done: list[str] = []
        while found := _receive(stage, "jobs", max=5, wait=1, visibility=60):
            done += [one["body"] for one in found]
            _delete(stage, "jobs", found)
        return done

    equal(sorted(chain(*together([work] * 4))), sorted(jobs))
    stats = stage.good("GET", "queues/jobs")["stats"]
    equal((stats["visible"], stats["in_flight"]), (0, 0))


@scenario
def jobs_that_fail(stage: Stage) -> None:
    """Messages that are given back come again, counted; after three receives they are dead letters."""
    stage.good("PUT", "queues/dead", {})
    stage.good("PUT", "queues/jobs", {"dead_letter": {"queue": "dead", "max_receives": 3}})
    jobs = stage.words(12)
    bad = set(stage.rng.sample(jobs, 5))
    _send(stage, "jobs", jobs)
    done: list[str] = []
    while found := _receive(stage, "jobs", max=10, visibility=60, wait=1):
        _delete(stage, "jobs", [one for one in found if one["body"] not in bad])
        done += [one["body"] for one in found if one["body"] not in bad]
        for one in found:
            if one["body"] in bad:
                stage.call("PATCH", f"queues/jobs/messages/{one['receipt']}", {"visibility": 0})
                true(one["receive_count"] <= 3, one)
    equal(sorted(done), sorted(set(jobs) - bad))
    dead = []
    while found := _receive(stage, "dead", max=10, wait=1):
        dead += [one["body"] for one in found]
        _delete(stage, "dead", found)
    equal(sorted(dead), sorted(bad))


@scenario
def groups_in_order(stage: Stage) -> None:
    """On a FIFO queue every group comes in order, though messages are given back at random."""
    stage.good("PUT", "queues/line.fifo", {"type": "fifo", "content_dedup": True})
    sent: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for number in range(30):
        group = stage.rng.choice("abc")
        sent[group].append(f"{group} {number}")
        stage.good("POST", "queues/line.fifo/messages", {"body": sent[group][-1], "group": group})
    seen: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    while any(len(seen[group]) < len(sent[group]) for group in sent):
        found = _receive(stage, "line.fifo", max=5, wait=2, visibility=60)
        true(found, seen)
        back: set[str] = set()
        for one in found:
            if one["group"] in back or stage.rng.random() < 0.2:
                back.add(one["group"])  # and whatever comes behind it
        for one in found:
            if one["group"] in back:
                stage.call("PATCH", f"queues/line.fifo/messages/{one['receipt']}", {"visibility": 0})
            else:
                seen[one["group"]].append(one["body"])
                _delete(stage, "line.fifo", [one])
    equal(seen, sent)


@scenario
def topics_into_queues(stage: Stage) -> None:
    """What is published on topics that a queue has subscribed to, over any protocol, is in it once."""
    stage.good("PUT", "queues/all", {})
    stage.good("PUT", "queues/all/subscriptions", {"topic": "in/#"})
    mqtt, client = stage.mqtt(), stage.websocket()
    expected = []
    for number in range(40):
        topic = stage.rng.choice(("in/a", "in/b/c", "out"))
        text = f"{topic} {number}"
        how = stage.rng.randrange(3)
        if how == 0:
            stage.publish(topic, text)
        elif how == 1:
            mqtt.publish(topic, text.encode(), 1)
        else:
            client.ask(action="publish", topic=topic, message=text)
        if topic != "out":
            expected.append(text)
    bodies: list[str] = []
    while len(bodies) < len(expected):
        found = _receive(stage, "all", max=10, wait=5, visibility=60)
        true(found, bodies)
        bodies += [one["body"] for one in found]
        _delete(stage, "all", found)
    equal(sorted(bodies), sorted(expected))
    equal(_receive(stage, "all", max=10), [])

"""A Celery application over kombu's SQS transport.

Environment: ``SQS_HOST`` (host:port), ``SQS_KEY``, ``SQS_SECRET``, ``SQS_SEEN`` (a file that tasks write lines to).
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("tasks", broker=f"sqs://{os.environ['SQS_KEY']}:{os.environ['SQS_SECRET']}@{os.environ['SQS_HOST']}")
app.conf.update(
    broker_transport_options={
        "is_secure": False,
        "region": "eu-west-1",
        "visibility_timeout": 3,
        "polling_interval": 0.1,
        "wait_time_seconds": 2,
        "queue_name_prefix": "celery-",
    },
    task_default_queue="tasks",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


def see(line: str) -> None:
    with Path(os.environ["SQS_SEEN"]).open("a") as file:
        file.write(f"{line}\n")


@app.task
def add(left: int, right: int) -> None:
    see(f"add {left + right}")


@app.task(bind=True, max_retries=5)
def stubborn(self: Any) -> None:
    """Succeeds at the third time."""
    see(f"stubborn {self.request.retries}")
    if self.request.retries < 2:
        raise self.retry(countdown=1)


@app.task(bind=True)
def deadly(self: Any, marker: str) -> None:
    """Takes its worker with it the first time, so that the message comes back when its visibility ends."""
    see("deadly")
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)

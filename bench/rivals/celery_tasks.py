"""Celery's application: a task that does nothing, once with its result kept and once without."""

import os

from celery import Celery
from celery.signals import worker_process_init

from common import Tally

app = Celery("bench", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_pool_limit=300,
    redis_max_connections=1000,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    # Many at once for tasks of no duration, as Celery's guide on optimizing says.
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
)
tally = None


@worker_process_init.connect
def begin(**_):
    global tally
    tally = Tally()


@app.task
def noop():
    tally.add_one()


@app.task(ignore_result=True)
def forget():
    tally.add_one()

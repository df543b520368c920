"""A Celery worker that is called by `rpchost call`: `celery_service.py URL`."""

import sys

from celery import Celery
from celery.signals import worker_ready

app = Celery("service", broker=sys.argv[1], backend="rpc://")


@app.task(name="math.fib")
def fib(n):
    if n > 92:
        raise ValueError("too large", n)
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@app.task(name="math.add")
def add(a, b):
    return a + b


# It says that it has started, then that it is tried again, then what came of it.
@app.task(name="math.second_time", bind=True, track_started=True, default_retry_delay=0)
def second_time(self):
    if self.request.retries == 0:
        raise self.retry()
    return "done"


@worker_ready.connect
def ready(**_):
    # A worker takes what is printed for its log.
    print("ready", file=sys.__stdout__, flush=True)


options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
app.worker_main(["-q", "worker", "--pool=solo", "--loglevel=CRITICAL", *options])

"""What a Celery producer sees of rpchost: `celery_rpc.py URL`."""

import sys

from celery import Celery, group

app = Celery("caller", broker=sys.argv[1], backend="rpc://")


def send(task, *args, **options):
    return app.send_task(task, args=args, **options).get(timeout=30)


def signature(task, *args):
    return app.signature(task, args=args)


for case, call in [
    ("result", lambda: send("typed.fib", 30)),
    ("by name", lambda: send("typed.fib", kwargs={"n": 30})),
    ("both", lambda: send("typed.add", 40, kwargs={"b": 2})),
    ("group", lambda: group(signature("typed.fib", 9), signature("typed.fib", 10))().get(timeout=30)),
    ("application", lambda: send("typed.divide", 1, 0)),
    ("unknown method", lambda: send("typed.nope", 1)),
    ("bad argument", lambda: send("typed.fib", "x")),
    ("trap", lambda: send("typed.panic", "boom")),
    ("deadline", lambda: send("spin")),
    ("eta", lambda: send("typed.fib", 3, countdown=1)),
    ("expires", lambda: send("typed.fib", 3, expires=60)),
    ("time limit", lambda: send("typed.fib", 3, soft_time_limit=5)),
    ("chain", lambda: (signature("typed.fib", 3) | signature("typed.fib"))().get(timeout=30)),
    ("pickle", lambda: send("typed.fib", 3, serializer="pickle")),
]:
    try:
        print(f"{case}: {call()!r}")
    except Exception as error:
        print(f"{case}: {type(error).__module__}.{type(error).__name__} {error}")

failed = app.send_task("typed.panic", args=("boom",))
failed.get(timeout=30, propagate=False)
print(f"state: {failed.state} {failed.traceback.splitlines()[0]}")

"""Has a task `math.fib` done, with Celery: `fib.py [N]`."""

import os
import sys

from celery import Celery

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
number = int(sys.argv[1]) if len(sys.argv) > 1 else 30

app = Celery("caller", broker=URL, backend="rpc://")
try:
    print(app.send_task("math.fib", args=[number]).get(timeout=10))
except Exception as error:
    # The worker's exceptions come back as exceptions of these names.
    sys.exit(f"{type(error).__name__}: {error}")

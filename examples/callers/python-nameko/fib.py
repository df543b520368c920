"""Asks the service `math` for a Fibonacci number, with Nameko: `fib.py [N]`."""

import os
import sys

from nameko.exceptions import RemoteError
from nameko.standalone.rpc import ClusterRpcProxy

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
number = int(sys.argv[1]) if len(sys.argv) > 1 else 30

with ClusterRpcProxy({"AMQP_URI": URL}, timeout=10) as services:
    try:
        print(services.math.fib(number))
    except RemoteError as error:
        sys.exit(f"{error.exc_type}: {error.value}")

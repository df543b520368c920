"""A Nameko service that is called by `rpchost call`: `nameko_service.py URL`."""

import sys
import warnings

import eventlet

# Nameko's own dependency says that it is old.
warnings.filterwarnings("ignore")
eventlet.monkey_patch()

from nameko.containers import ServiceContainer  # noqa: E402
from nameko.rpc import rpc  # noqa: E402


class OutOfRange(Exception):
    pass


class Math:
    name = "math"

    @rpc
    def fib(self, n):
        if n > 92:
            raise OutOfRange("too large", n)
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a

    @rpc
    def add(self, a, b):
        return a + b

    @rpc
    def nothing(self):
        return None


container = ServiceContainer(Math, config={"AMQP_URI": sys.argv[1]})
container.start()
print("ready", flush=True)
container.wait()

"""What a Nameko service or script sees of rpchost: `nameko_rpc.py URL`."""

import sys
import warnings

# Nameko's own dependency says that it is old.
warnings.filterwarnings("ignore")

from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402


def shown(error):
    name = f"{type(error).__module__}.{type(error).__name__}"
    if hasattr(error, "exc_type"):
        return f"{name} {error.exc_type} {error.value}"
    return f"{name} {error}"


with ClusterRpcProxy({"AMQP_URI": sys.argv[1]}, timeout=30) as rpc:
    for case, call in [
        ("result", lambda: rpc.typed.fib(30)),
        ("by name", lambda: rpc.typed.fib(n=30)),
        ("both", lambda: rpc.typed.add(40, b=2)),
        ("application", lambda: rpc.typed.divide(1, 0)),
        ("unknown method", lambda: rpc.typed.nope(1)),
        ("unknown service", lambda: rpc.nobody.fib(1)),
        ("bad argument", lambda: rpc.typed.fib("x")),
        ("too many", lambda: rpc.typed.fib(1, 2)),
        ("trap", lambda: rpc.typed.panic("boom")),
        ("deadline", lambda: rpc.spin.run()),
        ("asynchronous", lambda: rpc.typed.fib.call_async(10).result()),
    ]:
        try:
            print(f"{case}: {call()!r}")
        except Exception as error:
            print(f"{case}: {shown(error)}")

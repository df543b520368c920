"""What a caller with aio-pika's RPC patterns sees of rpchost: `aio_pika_rpc.py URL`."""

import asyncio
import sys

import aio_pika
from aio_pika.exceptions import MessageProcessError
from aio_pika.patterns import RPC, JsonRPC


async def main():
    connection = await aio_pika.connect_robust(sys.argv[1])
    json = await JsonRPC.create(await connection.channel())
    pickle = await RPC.create(await connection.channel())
    for case, call in [
        ("result", json.call("typed.fib", {"n": 30})),
        ("proxy", json.proxy.typed.fib(n=30)),
        ("application", json.call("typed.divide", {"a": 1, "b": 0})),
        ("unknown method", json.call("typed.nope", {"n": 1})),
        ("bad argument", json.call("typed.fib", {"n": "x"})),
        ("no argument", json.call("typed.fib")),
        ("trap", json.call("typed.panic", {"text": "boom"})),
        ("deadline", json.call("spin", {})),
        ("pickle", pickle.call("typed.fib", {"n": 30})),
    ]:
        try:
            print(f"{case}: {await asyncio.wait_for(call, 30)!r}")
        except MessageProcessError as error:
            # Its text is the whole message.
            print(f"{case}: {type(error).__name__} {error.args[0]}")
        except Exception as error:
            print(f"{case}: {type(error).__name__} {error}")
    await connection.close()


asyncio.run(main())

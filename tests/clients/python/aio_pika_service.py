"""Methods of aio-pika's JsonRPC that are called by `rpchost call`: `aio_pika_service.py URL`."""

import asyncio
import sys

import aio_pika
from aio_pika.patterns import RPC, JsonRPC


async def fib(*, n):
    if n > 92:
        raise ValueError("too large", n)
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


async def nothing():
    return None


async def main():
    connection = await aio_pika.connect_robust(sys.argv[1])
    json = await JsonRPC.create(await connection.channel())
    await json.register("math.fib", fib, auto_delete=True)
    await json.register("nothing", nothing, auto_delete=True)
    behind = await JsonRPC.create(await connection.channel(), exchange="sums")
    await behind.register("fib", fib, auto_delete=True)
    pickle = await RPC.create(await connection.channel())
    await pickle.register("pickled", fib, auto_delete=True)
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main())

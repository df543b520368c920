"""Asks for a Fibonacci number with aio-pika's JsonRPC pattern: `json_rpc.py [N]`."""

import asyncio
import os
import sys

import aio_pika
from aio_pika.patterns import JsonRPC
from aio_pika.patterns.rpc import JsonRPCError

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")


async def main(number):
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        rpc = await JsonRPC.create(await connection.channel())
        try:
            print(await asyncio.wait_for(rpc.call("math.fib", {"n": int(number)}), 10))
        except JsonRPCError as error:
            print(error.args[1]["error"]["message"], file=sys.stderr)
            return 1


sys.exit(asyncio.run(main(*sys.argv[1:] or ["30"])))

"""Asks for a Fibonacci number with FastStream: `fib.py [N]`."""

import asyncio
import os
import sys

from faststream.rabbit import RabbitBroker

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")


async def main(number):
    async with RabbitBroker(URL) as broker:
        reply = await broker.request(int(number), "rpc_queue", timeout=10)
        answer = await reply.decode()
    # FastStream itself knows no errors: all that comes is a result.
    if reply.raw_message.type == "error":
        sys.exit(f"{answer['error']['kind']}: {answer['error']['message']}")
    print(answer)


asyncio.run(main(*sys.argv[1:] or ["30"]))

"""Asks for a Fibonacci number with aio-pika, as in RabbitMQ's RPC tutorial: `fib.py [N]`."""

import asyncio
import os
import sys
import uuid

import aio_pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")


async def main(number):
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        asked = str(uuid.uuid4())
        request = aio_pika.Message(number.encode(), correlation_id=asked, reply_to=replies.name)
        await channel.default_exchange.publish(request, routing_key="rpc_queue")
        async with replies.iterator(no_ack=True, timeout=10) as messages:
            async for reply in messages:
                if reply.correlation_id == asked:
                    print(reply.body.decode())
                    return 1 if reply.type == "error" else 0


sys.exit(asyncio.run(main(*sys.argv[1:] or ["30"])))

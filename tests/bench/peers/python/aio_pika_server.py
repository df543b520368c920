"""RPC server with aio-pika on uvloop: aio_pika_server.py URL QUEUE WORK."""

import asyncio
import sys

import aio_pika
import uvloop


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


WORK = {"echo": lambda body: body, "fib": lambda body: str(fib(int(body))).encode()}


async def main(url, queue, work):
    answer = WORK[work]
    connection = await aio_pika.connect_robust(url)
    # Confirms, which are its default, are not what the tutorial's server waits for.
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=100)
    requests = await channel.get_queue(queue)

    async def on_request(message):
        async with message.process():
            await channel.default_exchange.publish(
                aio_pika.Message(
                    answer(message.body),
                    correlation_id=message.correlation_id,
                    delivery_mode=message.delivery_mode,
                ),
                routing_key=message.reply_to,
            )

    await requests.consume(on_request)
    print("ready", flush=True)
    await asyncio.Future()


uvloop.run(main(*sys.argv[1:]))

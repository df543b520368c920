"""What a FastStream application sees of rpchost: `faststream_rpc.py URL QUEUE`."""

import asyncio
import sys

from faststream.rabbit import RabbitBroker

url, queue = sys.argv[1:]


async def main():
    async with RabbitBroker(url) as broker:
        for case, body, options in [
            ("text", "30", {"message_type": "typed.fib"}),
            ("number", 30, {"message_type": "typed.fib"}),
            ("header", {"n": 30}, {"headers": {"rpc-method": "typed.fib"}}),
            ("json-rpc", {"jsonrpc": "2.0", "method": "typed.fib", "params": [30], "id": 1}, {}),
            ("application", {"a": 1, "b": 0}, {"message_type": "typed.divide"}),
            ("unknown method", 1, {"message_type": "typed.nope"}),
            ("bad argument", {"n": "x"}, {"message_type": "typed.fib"}),
            ("no JSON", "x", {"message_type": "typed.fib"}),
            ("trap", {"text": "boom"}, {"message_type": "typed.panic"}),
            ("deadline", "", {"message_type": "spin"}),
        ]:
            reply = await broker.request(body, queue, timeout=30, **options)
            answer = await reply.decode()
            if reply.raw_message.type == "error":
                answer = f"error {answer['error']['kind']}"
            print(f"{case}: {answer}")


asyncio.run(main())

#!/usr/bin/env python3
"""Asks for a Fibonacci number over RabbitMQ, as in RabbitMQ's RPC tutorial.

Knows nothing of rpchost but how an error reply looks: its AMQP property `type`
is `error` and its body is `{"error": {"code": …, "kind": …, "message": …}}`.
"""

import argparse
import json
import os
import sys
import time
import uuid

import pika
import pika.exceptions

URL = "amqp://guest:guest@localhost:5672/%2F"


class RpcError(Exception):
    """The other side answered, with an error."""


class RpcClient:
    def __init__(self, url, queue):
        self.queue = queue
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        # With confirms, a request that no queue takes raises UnroutableError.
        self.channel.confirm_delivery()
        # A queue of our own for the replies. It goes when we go.
        declared = self.channel.queue_declare(queue="", exclusive=True)
        self.callback_queue = declared.method.queue
        self.channel.basic_consume(self.callback_queue, self.on_reply, auto_ack=True)
        self.correlation_id = None
        self.reply = None

    def on_reply(self, _channel, _method, properties, body):
        # The reply to an earlier request that we gave up on may still arrive.
        if properties.correlation_id == self.correlation_id:
            self.reply = (properties, body)

    def call(self, method, body, timeout):
        """Returns the reply's body; raises RpcError or TimeoutError."""
        self.reply = None
        self.correlation_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key=self.queue,
            body=body,
            mandatory=True,
            properties=pika.BasicProperties(
                reply_to=self.callback_queue,
                correlation_id=self.correlation_id,
                # Which method to call. It may be left out where the host has a
                # default method, or only one.
                type=method,
                # Nobody should work on this after we have given up.
                expiration=str(max(1, int(timeout * 1000))),
            ),
        )
        deadline = time.monotonic() + timeout
        while self.reply is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no reply within {timeout:g} s")
            self.connection.process_data_events(time_limit=remaining)
        properties, body = self.reply
        if properties.type == "error":
            error = json.loads(body)["error"]
            raise RpcError(f"{error['kind']} ({error['code']}): {error['message']}")
        return body

    def close(self):
        if self.connection.is_open:
            self.connection.close()


def main():
    parser = argparse.ArgumentParser(description="Ask for a Fibonacci number over RabbitMQ.")
    parser.add_argument("number", nargs="?", default="30")
    parser.add_argument("--url", default=os.environ.get("AMQP_URL", URL))
    parser.add_argument("--queue", default="rpc_queue")
    parser.add_argument("--method", default="fib")
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS")
    args = parser.parse_args()

    client = None
    try:
        client = RpcClient(args.url, args.queue)
        print(client.call(args.method, args.number.encode(), args.timeout).decode())
        return 0
    except RpcError as error:
        print(error, file=sys.stderr)
        return 1
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return 3
    except pika.exceptions.UnroutableError:
        print(f"there is no queue `{args.queue}`", file=sys.stderr)
        return 4
    except (pika.exceptions.AMQPError, OSError) as error:
        print(f"no connection to the broker: {error!r}", file=sys.stderr)
        return 4
    finally:
        if client is not None:
            client.close()


if __name__ == "__main__":
    sys.exit(main())

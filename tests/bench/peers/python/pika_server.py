"""RPC server of RabbitMQ's tutorial six, with pika: pika_server.py URL QUEUE WORK."""

import sys

import pika


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


WORK = {"echo": lambda body: body, "fib": lambda body: str(fib(int(body)))}


def main(url, queue, work):
    answer = WORK[work]
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

    def on_request(channel, method, properties, body):
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(
                correlation_id=properties.correlation_id, delivery_mode=properties.delivery_mode
            ),
            body=answer(body),
        )
        channel.basic_ack(delivery_tag=method.delivery_tag)

    # As the tutorial has it.
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue=queue, on_message_callback=on_request)
    print("ready", flush=True)
    channel.start_consuming()


main(*sys.argv[1:])

"""RPC over RabbitMQ with pika, sending as RabbitMQ's tutorial for Python does."""

import sys
import uuid

import pika

url, queue, body = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
replies = channel.queue_declare(queue="", exclusive=True).method.queue
asked = str(uuid.uuid4())
answer = None


def on_reply(_channel, _method, properties, reply):
    global answer
    if properties.correlation_id == asked:
        answer = properties.type, reply


channel.basic_consume(queue=replies, on_message_callback=on_reply, auto_ack=True)
channel.basic_publish(
    exchange="",
    routing_key=queue,
    properties=pika.BasicProperties(reply_to=replies, correlation_id=asked),
    body=body,
)
while answer is None:
    connection.process_data_events(time_limit=1)
connection.close()

kind, reply = answer
print(reply.decode())
sys.exit(1 if kind == "error" else 0)

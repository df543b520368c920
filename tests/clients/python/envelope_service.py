"""A small service that reads envelopes, with pika: `envelope_service.py URL QUEUE FORM`.

FORM is how it answers: `response`, with texts that hold JSON, or `flat`, by the request's id.
"""

import json
import sys
import traceback

import pika

url, queue, form = sys.argv[1:]


def fib(n):
    if n > 92:
        raise ValueError("too large")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


FUNCTIONS = {"math:fib": fib}


def on_request(channel, method, properties, body):
    request = json.loads(body)["request"]
    try:
        function = FUNCTIONS[request["func"]]
        result, error = function(*request["args"], **request["kwargs"]), None
    except Exception as raised:
        result, error = None, f"{type(raised).__name__}: {raised}"
        trace = traceback.format_exc()
    if form == "flat":
        answer = {"id": request["id"]}
        answer |= {"error": {"exception": error}} if error else {"result": result}
    elif error:
        told = json.dumps({"error": error, "traceback": trace})
        answer = {"response": {"result": "", "error": told}}
    else:
        answer = {"response": {"result": json.dumps({"result": result}), "error": ""}}
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=json.dumps(answer),
    )
    channel.basic_ack(method.delivery_tag)


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue, durable=True)
channel.basic_consume(queue=queue, on_message_callback=on_request)
print("ready", flush=True)
channel.start_consuming()

// RPC server with amqplib: server.js URL QUEUE WORK.
'use strict';

const amqp = require('amqplib');

const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));
const work = {
  echo: (body) => body,
  fib: (body) => Buffer.from(String(fib(Number(body.toString())))),
};

async function serve(url, queue, answer) {
  // Without `noDelay`, one call at a time takes 40 ms: Nagle waits for an ack.
  const connection = await amqp.connect(url, { noDelay: true });
  const channel = await connection.createChannel();
  await channel.prefetch(100);
  await channel.consume(queue, (request) => {
    if (!request) throw new Error('the queue is gone');
    const { replyTo, correlationId, deliveryMode } = request.properties;
    const persistent = deliveryMode === 2;
    channel.sendToQueue(replyTo, answer(request.content), { correlationId, persistent });
    channel.ack(request);
  });
  console.log('ready');
}

const [url, queue, name] = process.argv.slice(2);
serve(url, queue, work[name]).catch((error) => {
  console.error(error);
  process.exit(1);
});

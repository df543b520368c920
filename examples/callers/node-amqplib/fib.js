// Asks for a Fibonacci number with amqplib, as in RabbitMQ's RPC tutorial: `fib.js [N]`.
const { randomUUID } = require('node:crypto');
const amqp = require('amqplib');

const url = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/%2F';
const replyTo = 'amq.rabbitmq.reply-to';

async function main(number) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  const correlationId = randomUUID();
  const reply = await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no answer within 10 s')), 10_000).unref();
    const onReply = (message) => {
      if (message?.properties.correlationId === correlationId) resolve(message);
    };
    channel
      .consume(replyTo, onReply, { noAck: true })
      .then(() => channel.sendToQueue('rpc_queue', Buffer.from(number), { correlationId, replyTo }))
      .catch(reject);
  });
  console.log(reply.content.toString());
  await connection.close();
  process.exitCode = reply.properties.type === 'error' ? 1 : 0;
}

main(process.argv[2] ?? '30');

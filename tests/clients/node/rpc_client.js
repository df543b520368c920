// RPC over RabbitMQ with amqplib, sending as RabbitMQ's tutorial for Node does.
'use strict';

const amqp = require('amqplib');

// The tutorial's id: three random fractions in a row, dots and all.
const newId = () => [1, 2, 3].map(() => Math.random().toString()).join('');

async function call(url, queue, body) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  const asked = newId();
  let answered;
  const answer = new Promise((resolve, reject) => {
    answered = resolve;
    connection.on('error', reject);
    channel.on('error', reject);
  });
  const replies = 'amq.rabbitmq.reply-to';
  const onReply = (reply) => {
    // Without a reply, the broker has cancelled the consumer.
    if (reply && reply.properties.correlationId === asked) answered(reply);
  };
  await channel.consume(replies, onReply, { noAck: true });
  channel.sendToQueue(queue, Buffer.from(body), { correlationId: asked, replyTo: replies });
  const reply = await answer;
  await connection.close();
  return reply;
}

const [url, queue, body] = process.argv.slice(2);
call(url, queue, body).then(
  (reply) => {
    console.log(reply.content.toString());
    process.exitCode = reply.properties.type === 'error' ? 1 : 0;
  },
  (error) => {
    console.error(error);
    process.exitCode = 2;
  },
);

// Asks for a Fibonacci number with @golevelup/nestjs-rabbitmq: `fib.js [N]`.
require('reflect-metadata');
const { AmqpConnection } = require('@golevelup/nestjs-rabbitmq');
const { Logger } = require('@nestjs/common');

async function main(number) {
  Logger.overrideLogger(false);
  const uri = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/%2F';
  // In an application, RabbitMQModule makes this and Nest injects it.
  const connection = new AmqpConnection({ uri, connectionInitOptions: { wait: true } });
  await connection.init();
  const answer = await connection.request({
    exchange: '',
    routingKey: 'rpc_queue',
    payload: Number(number),
    timeout: 10_000,
  });
  // The library knows no errors: all that comes is a result.
  if (answer.error) {
    console.error(`${answer.error.kind}: ${answer.error.message}`);
    process.exit(1);
  }
  console.log(answer);
  process.exit(0);
}

main(process.argv[2] ?? '30');

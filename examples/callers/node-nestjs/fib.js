// Asks a microservice for a Fibonacci number, with NestJS's ClientRMQ: `fib.js [N]`.
require('reflect-metadata');
const { Logger } = require('@nestjs/common');
const { ClientProxyFactory, Transport } = require('@nestjs/microservices');
const { firstValueFrom, timeout } = require('rxjs');

const url = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/%2F';

async function main(number) {
  Logger.overrideLogger(false);
  // In an application, ClientsModule makes this and @Client injects it.
  const client = ClientProxyFactory.create({
    transport: Transport.RMQ,
    options: { urls: [url], queue: 'math_queue', queueOptions: { durable: true } },
  });
  try {
    const answer = client.send({ cmd: 'math.fib' }, { n: Number(number) });
    console.log(await firstValueFrom(answer.pipe(timeout(10_000))));
  } catch (error) {
    console.error(`${error.kind}: ${error.message}`);
    process.exitCode = 1;
  }
  await client.close();
}

main(process.argv[2] ?? '30');

// What an application with NestJS's ClientRMQ sees of rpchost: `nestjs_rpc.js URL QUEUE`.
require('reflect-metadata');
const { Logger } = require('@nestjs/common');
const { ClientProxyFactory, Transport } = require('@nestjs/microservices');
const { firstValueFrom, timeout } = require('rxjs');

const [url, queue] = process.argv.slice(2);
Logger.overrideLogger(false);

async function main() {
  const client = ClientProxyFactory.create({
    transport: Transport.RMQ,
    options: { urls: [url], queue, queueOptions: { durable: true } },
  });
  for (const [name, pattern, data] of [
    ['result', { cmd: 'typed.fib' }, { n: 30 }],
    ['text pattern', 'typed.fib', 30],
    ['by position', 'typed.add', [40, 2]],
    ['application', 'typed.divide', { a: 1, b: 0 }],
    ['unknown method', 'typed.nope', 1],
    ['bad argument', 'typed.fib', 'x'],
    ['trap', 'typed.panic', { text: 'boom' }],
    ['deadline', 'spin', {}],
  ]) {
    try {
      const result = await firstValueFrom(client.send(pattern, data).pipe(timeout(30000)));
      console.log(`${name}: ${JSON.stringify(result)}`);
    } catch (error) {
      // Nest throws what the server calls `err`, whatever it is.
      const shown = error.kind ? `${error.kind} ${error.code} ${error.message}` : error;
      console.log(`${name}: error ${shown}`);
    }
  }
  await firstValueFrom(client.emit('typed.fib', 3), { defaultValue: null });
  console.log('event: sent');
  await client.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

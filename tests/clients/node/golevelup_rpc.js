// What an application with @golevelup/nestjs-rabbitmq sees of rpchost: `golevelup_rpc.js URL QUEUE`.
require('reflect-metadata');
const { AmqpConnection } = require('@golevelup/nestjs-rabbitmq');
const { Logger } = require('@nestjs/common');

const [url, queue] = process.argv.slice(2);
Logger.overrideLogger(false);

async function main() {
  const connection = new AmqpConnection({ uri: url, connectionInitOptions: { wait: true } });
  await connection.init();
  for (const [name, type, payload] of [
    ['result', 'typed.fib', 30],
    ['by name', 'typed.fib', { n: 30 }],
    ['application', 'typed.divide', { a: 1, b: 0 }],
    ['unknown method', 'typed.nope', 1],
    ['bad argument', 'typed.fib', 'x'],
    ['trap', 'typed.panic', { text: 'boom' }],
    ['deadline', 'spin', {}],
  ]) {
    const answer = await connection.request({
      exchange: '',
      routingKey: queue,
      payload,
      timeout: 30000,
      publishOptions: { type },
    });
    // The library knows no errors: what is in the body is the result.
    const shown = answer.error ? `error ${answer.error.kind}` : JSON.stringify(answer);
    console.log(`${name}: ${shown}`);
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

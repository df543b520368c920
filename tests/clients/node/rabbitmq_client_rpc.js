// What a program with rabbitmq-client sees of rpchost: `rabbitmq_client_rpc.js URL QUEUE`.
const { Connection } = require('rabbitmq-client');

const [url, queue] = process.argv.slice(2);

async function main() {
  const connection = new Connection(url);
  const client = connection.createRPCClient({ confirm: true, timeout: 30000 });
  for (const [name, type, body] of [
    ['text', 'typed.fib', '30'],
    ['number', 'typed.fib', 30],
    ['application', 'typed.divide', { a: 1, b: 0 }],
    ['unknown method', 'typed.nope', 1],
    ['bad argument', 'typed.fib', { n: 'x' }],
    ['no JSON', 'typed.fib', 'x'],
    ['trap', 'typed.panic', { text: 'boom' }],
    ['deadline', 'spin', {}],
  ]) {
    const reply = await client.send({ routingKey: queue, type }, body);
    const shown = reply.type === 'error' ? `error ${reply.body.error.kind}` : reply.body;
    console.log(`${name}: ${shown}`);
  }
  await client.close();
  await connection.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

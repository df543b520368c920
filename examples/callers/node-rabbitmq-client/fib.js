// Asks for a Fibonacci number with rabbitmq-client: `fib.js [N]`.
const { Connection } = require('rabbitmq-client');

async function main(number) {
  const url = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/%2F';
  const connection = new Connection(url);
  const client = connection.createRPCClient({ confirm: true, timeout: 10_000 });
  const reply = await client.send('rpc_queue', Number(number));
  if (reply.type === 'error') {
    console.error(`${reply.body.error.kind}: ${reply.body.error.message}`);
    process.exitCode = 1;
  } else {
    console.log(reply.body);
  }
  await client.close();
  await connection.close();
}

main(process.argv[2] ?? '30');

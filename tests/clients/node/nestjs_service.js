// A microservice of NestJS that is called by `rpchost call`: `nestjs_service.js URL QUEUE`.
require('reflect-metadata');
const { Controller, Module } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const { MessagePattern, RpcException, Transport } = require('@nestjs/microservices');

const [url, queue] = process.argv.slice(2);

class Sums {
  fib({ n }) {
    if (n > 92) throw new RpcException({ code: 42, message: 'too large' });
    let [a, b] = [0, 1];
    for (let i = 0; i < n; i++) [a, b] = [b, a + b];
    return a;
  }

  add(numbers) {
    return numbers.reduce((sum, number) => sum + number, 0);
  }

  broken() {
    throw new Error('its own affair');
  }

  nothing() {}
}

// What decorators do, in a language that has none.
const handles = (pattern, name) => {
  const method = Object.getOwnPropertyDescriptor(Sums.prototype, name);
  MessagePattern(pattern)(Sums.prototype, name, method);
};
handles({ cmd: 'fib' }, 'fib');
handles('add', 'add');
handles('broken', 'broken');
handles('nothing', 'nothing');
Controller()(Sums);

class Application {}
Module({ controllers: [Sums] })(Application);

async function main() {
  const service = await NestFactory.createMicroservice(Application, {
    logger: false,
    transport: Transport.RMQ,
    options: { urls: [url], queue, queueOptions: { durable: true } },
  });
  await service.listen();
  console.log('ready');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

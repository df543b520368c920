import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.tools.jsonrpc.JsonRpcClient;

/** What the RPC clients of RabbitMQ's Java library see of rpchost: {@code JsonRpc URL QUEUE}. */
public class JsonRpc {
    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(args[0]);
        try (Connection connection = factory.newConnection()) {
            Channel channel = connection.createChannel();
            RpcClient plain = new RpcClient(channel, "", args[1], 30_000);
            System.out.println("plain: " + plain.stringCall("30"));
            plain.close();

            JsonRpcClient client = new JsonRpcClient(connection.createChannel(), "", args[1], 30_000);
            int fib = client.getServiceDescription().getProcedure("typed.fib", 1).arity();
            System.out.println("described: " + fib);
            call(client, "result", "typed.fib", 30);
            call(client, "two", "typed.add", 40, 2);
            call(client, "application", "typed.divide", 1, 0);
            call(client, "unknown method", "typed.nope", 1);
            call(client, "bad argument", "typed.fib", "x");
            call(client, "trap", "typed.panic", "boom");
            call(client, "deadline", "spin");
        }
    }

    private static void call(JsonRpcClient client, String name, String method, Object... params)
            throws Exception {
        try {
            System.out.println(name + ": " + client.call(method, params));
        } catch (com.rabbitmq.tools.jsonrpc.JsonRpcException error) {
            System.out.println(name + ": " + error.code + " " + error.name);
        }
    }
}

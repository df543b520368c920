import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.tools.jsonrpc.JsonRpcClient;
import com.rabbitmq.tools.jsonrpc.JsonRpcException;

/** Asks for a Fibonacci number with the library's JsonRpcClient: {@code JsonFib [N]}. */
public class JsonFib {
    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault(
                "AMQP_URL", "amqp://guest:guest@localhost:5672/%2F"));
        int number = args.length > 0 ? Integer.parseInt(args[0]) : 30;
        try (Connection connection = factory.newConnection()) {
            JsonRpcClient client =
                    new JsonRpcClient(connection.createChannel(), "", "rpc_queue", 10_000);
            System.out.println(client.call("math.fib", new Object[] {number}));
        } catch (JsonRpcException error) {
            System.err.println(error.code + ": " + error.message);
            System.exit(1);
        }
    }
}

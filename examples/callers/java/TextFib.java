import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.RpcClient;

/** Asks for a Fibonacci number with the library's RpcClient: {@code TextFib [N]}. */
public class TextFib {
    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault(
                "AMQP_URL", "amqp://guest:guest@localhost:5672/%2F"));
        try (Connection connection = factory.newConnection()) {
            RpcClient client = new RpcClient(connection.createChannel(), "", "rpc_queue", 10_000);
            // What is an error, the text says; the library shows nothing else of a reply.
            System.out.println(client.stringCall(args.length > 0 ? args[0] : "30"));
        }
    }
}

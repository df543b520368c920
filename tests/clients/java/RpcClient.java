import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;

/**
 * RPC over RabbitMQ with the Java client, sending as RabbitMQ's tutorial for Java does: one call
 * after the other, a new reply queue for each, consumed only when the request is out.
 */
public final class RpcClient {
    private record Reply(AMQP.BasicProperties properties, byte[] body) {}

    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(args[0]);
        boolean failed = false;
        try (Connection connection = factory.newConnection()) {
            Channel channel = connection.createChannel();
            for (String body : Arrays.asList(args).subList(2, args.length)) {
                Reply reply = call(channel, args[1], body);
                System.out.println(new String(reply.body(), StandardCharsets.UTF_8));
                failed |= "error".equals(reply.properties().getType());
            }
        }
        System.exit(failed ? 1 : 0);
    }

    private static Reply call(Channel channel, String queue, String body) throws Exception {
        String asked = UUID.randomUUID().toString();
        // Exclusive and deleted with its consumer, by the library's default.
        String replies = channel.queueDeclare().getQueue();
        AMQP.BasicProperties properties =
                new AMQP.BasicProperties.Builder().correlationId(asked).replyTo(replies).build();
        channel.basicPublish("", queue, properties, body.getBytes(StandardCharsets.UTF_8));

        CompletableFuture<Reply> answer = new CompletableFuture<>();
        String tag = channel.basicConsume(replies, true, new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(
                    String tag, Envelope envelope, AMQP.BasicProperties reply, byte[] content) {
                if (asked.equals(reply.getCorrelationId())) {
                    answer.complete(new Reply(reply, content));
                }
            }
        });
        Reply reply = answer.get();
        channel.basicCancel(tag);
        return reply;
    }
}

/* RPC over RabbitMQ with rabbitmq-c, sending as the RPC example of that library does: over an
 * ordinary queue that goes with its consumer, and always with the same correlation id. */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNEL = 1, FRAME_MAX = 131072, HEARTBEAT_OFF = 0, PERSISTENT = 2 };

/* Says what was tried, and ends. */
static void fail(const char *what)
{
    fprintf(stderr, "%s failed\n", what);
    exit(2);
}

static void expect(amqp_rpc_reply_t reply, const char *what)
{
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail(what);
}

static int is(amqp_bytes_t bytes, const char *text)
{
    return bytes.len == strlen(text) && memcmp(bytes.bytes, text, bytes.len) == 0;
}

/* An open channel to the broker that the URL names. Takes the URL apart in its place. */
static amqp_connection_state_t open_channel(char *url)
{
    struct amqp_connection_info broker;
    if (amqp_parse_url(url, &broker) != AMQP_STATUS_OK)
        fail("reading the URL");
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = connection ? amqp_tcp_socket_new(connection) : NULL;
    if (!socket || amqp_socket_open(socket, broker.host, broker.port) != AMQP_STATUS_OK)
        fail("connecting");
    expect(amqp_login(connection, broker.vhost, AMQP_DEFAULT_MAX_CHANNELS, FRAME_MAX,
                      HEARTBEAT_OFF, AMQP_SASL_METHOD_PLAIN, broker.user, broker.password),
           "logging in");
    amqp_channel_open(connection, CHANNEL);
    expect(amqp_get_rpc_reply(connection), "opening a channel");
    return connection;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        fail("reading URL, QUEUE and BODY from the command line");
    amqp_connection_state_t connection = open_channel(argv[1]);

    /* passive, durable, exclusive, auto-delete */
    amqp_queue_declare_ok_t *declared = amqp_queue_declare(
        connection, CHANNEL, amqp_empty_bytes, 0, 0, 0, 1, amqp_empty_table);
    expect(amqp_get_rpc_reply(connection), "declaring the reply queue");
    /* What the library returned is gone with its next call. */
    amqp_bytes_t replies = amqp_bytes_malloc_dup(declared->queue);

    const char *asked = "1";
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG
            | AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
        .content_type = amqp_cstring_bytes("text/plain"),
        .delivery_mode = PERSISTENT,
        .reply_to = replies,
        .correlation_id = amqp_cstring_bytes(asked),
    };
    if (amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(argv[2]), 0,
                           0, &properties, amqp_cstring_bytes(argv[3])) != AMQP_STATUS_OK)
        fail("publishing");

    /* no-local, no-ack, exclusive */
    amqp_basic_consume(connection, CHANNEL, replies, amqp_empty_bytes, 0, 1, 0, amqp_empty_table);
    expect(amqp_get_rpc_reply(connection), "consuming the reply queue");
    for (;;) {
        amqp_envelope_t reply;
        amqp_maybe_release_buffers(connection);
        expect(amqp_consume_message(connection, &reply, NULL, 0), "waiting for the reply");
        const amqp_basic_properties_t *got = &reply.message.properties;
        if ((got->_flags & AMQP_BASIC_CORRELATION_ID_FLAG) && is(got->correlation_id, asked)) {
            int failed = (got->_flags & AMQP_BASIC_TYPE_FLAG) && is(got->type, "error");
            fwrite(reply.message.body.bytes, 1, reply.message.body.len, stdout);
            puts("");
            amqp_destroy_envelope(&reply);
            amqp_bytes_free(replies);
            expect(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "closing");
            amqp_destroy_connection(connection);
            return failed;
        }
        amqp_destroy_envelope(&reply);
    }
}

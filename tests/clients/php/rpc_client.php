<?php
// RPC over RabbitMQ with php-amqplib, sending as RabbitMQ's tutorial for PHP does.

declare(strict_types=1);

// Where Debian has the library.
require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

[, $url, $queue, $body] = $argv;
$broker = parse_url($url);
$connection = new AMQPStreamConnection(
    $broker['host'],
    $broker['port'],
    rawurldecode($broker['user']),
    rawurldecode($broker['pass']),
    rawurldecode(substr($broker['path'], 1))
);
$channel = $connection->channel();
// Exclusive and, by the library's default, deleted with its consumer.
[$replies] = $channel->queue_declare('', false, false, true);

$asked = uniqid();
$answer = null;
$onReply = function (AMQPMessage $reply) use ($asked, &$answer): void {
    if ($reply->get('correlation_id') === $asked) {
        $answer = $reply;
    }
};
$channel->basic_consume($replies, '', false, true, false, false, $onReply);
$request = new AMQPMessage($body, ['correlation_id' => $asked, 'reply_to' => $replies]);
$channel->basic_publish($request, '', $queue);
while ($answer === null) {
    $channel->wait();
}
$channel->close();
$connection->close();

echo $answer->getBody(), "\n";
exit($answer->has('type') && $answer->get('type') === 'error' ? 1 : 0);

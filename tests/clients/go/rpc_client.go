// RPC over RabbitMQ with amqp091-go, sending as RabbitMQ's tutorial for Go does.
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// newID makes the tutorial's id: capital letters.
func newID(length int) string {
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	letters := make([]byte, length)
	for at := range letters {
		letters[at] = byte('A' + random.Intn('Z'-'A'+1))
	}
	return string(letters)
}

func call(channel *amqp.Channel, queue string, body string) (amqp.Delivery, error) {
	// Exclusive; its name is the broker's choice.
	replies, err := channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		return amqp.Delivery{}, fmt.Errorf("declare the reply queue: %w", err)
	}
	// Acked by being sent.
	deliveries, err := channel.Consume(replies.Name, "", true, false, false, false, nil)
	if err != nil {
		return amqp.Delivery{}, fmt.Errorf("consume `%s`: %w", replies.Name, err)
	}
	asked := newID(32)
	request := amqp.Publishing{
		ContentType:   "text/plain",
		CorrelationId: asked,
		ReplyTo:       replies.Name,
		Body:          []byte(body),
	}
	if err := channel.PublishWithContext(context.Background(), "", queue, false, false, request); err != nil {
		return amqp.Delivery{}, fmt.Errorf("publish to `%s`: %w", queue, err)
	}
	for reply := range deliveries {
		if reply.CorrelationId == asked {
			return reply, nil
		}
	}
	return amqp.Delivery{}, fmt.Errorf("the channel was closed before the answer came")
}

func run(url, queue, body string) (amqp.Delivery, error) {
	connection, err := amqp.Dial(url)
	if err != nil {
		return amqp.Delivery{}, fmt.Errorf("connect: %w", err)
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return amqp.Delivery{}, fmt.Errorf("open a channel: %w", err)
	}
	return call(channel, queue, body)
}

func main() {
	reply, err := run(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(reply.Body))
	if reply.Type == "error" {
		os.Exit(1)
	}
}

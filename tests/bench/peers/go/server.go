// RPC server with amqp091-go: server URL QUEUE WORK.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func answer(work string, body []byte) ([]byte, error) {
	if work == "echo" {
		return body, nil
	}
	number, err := strconv.Atoi(string(body))
	if err != nil {
		return nil, fmt.Errorf("read the number: %w", err)
	}
	return []byte(strconv.Itoa(fib(number))), nil
}

func serve(url, queue, work string) error {
	connection, err := amqp.Dial(url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := channel.Qos(100, 0, false); err != nil {
		return fmt.Errorf("set the prefetch: %w", err)
	}
	requests, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume `%s`: %w", queue, err)
	}
	fmt.Println("ready")
	for request := range requests {
		body, err := answer(work, request.Body)
		if err != nil {
			return err
		}
		reply := amqp.Publishing{
			CorrelationId: request.CorrelationId,
			DeliveryMode:  request.DeliveryMode,
			Body:          body,
		}
		err = channel.PublishWithContext(context.Background(), "", request.ReplyTo, false, false, reply)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if err := request.Ack(false); err != nil {
			return fmt.Errorf("ack: %w", err)
		}
	}
	return fmt.Errorf("the queue is gone")
}

func main() {
	log.Fatal(serve(os.Args[1], os.Args[2], os.Args[3]))
}

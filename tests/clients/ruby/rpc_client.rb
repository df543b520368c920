# RPC over RabbitMQ with bunny, sending as RabbitMQ's tutorial for Ruby does.

require 'bunny'

url, queue, body = ARGV
connection = Bunny.new(url, automatically_recover: false).start
channel = connection.create_channel
replies = channel.queue('', exclusive: true)

# The tutorial's id: three random fractions in a row, dots and all.
asked = "#{rand}#{rand}#{rand}"
# Replies come on a thread of the library's.
answers = Queue.new
replies.subscribe do |_delivery, properties, reply|
  answers << [properties[:type], reply] if properties[:correlation_id] == asked
end

# The library adds content type, priority and a delivery mode.
channel.default_exchange.publish(
  body, routing_key: queue, correlation_id: asked, reply_to: replies.name
)
kind, reply = answers.pop
connection.close

puts reply
exit(kind == 'error' ? 1 : 0)

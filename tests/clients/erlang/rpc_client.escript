#!/usr/bin/env escript
%% RPC over RabbitMQ with its Erlang client, sending as RabbitMQ's tutorial for Erlang does: it
%% declares the request queue itself, transient, and its id is sixteen raw bytes.

-mode(compile).
-include_lib("amqp_client/include/amqp_client.hrl").

main([Url, Queue, Body]) ->
    {ok, _} = application:ensure_all_started(amqp_client),
    {ok, Params} = amqp_uri:parse(Url),
    {ok, Connection} = amqp_connection:start(Params),
    {ok, Channel} = amqp_connection:open_channel(Connection),
    Requests = list_to_binary(Queue),
    #'queue.declare_ok'{} = amqp_channel:call(Channel, #'queue.declare'{queue = Requests}),
    #'queue.declare_ok'{queue = Replies} =
        amqp_channel:call(Channel, #'queue.declare'{exclusive = true}),
    Consume = #'basic.consume'{queue = Replies, no_ack = true},
    #'basic.consume_ok'{} = amqp_channel:subscribe(Channel, Consume, self()),
    receive #'basic.consume_ok'{} -> ok end,

    Asked = crypto:strong_rand_bytes(16),
    Request = #amqp_msg{
        props = #'P_basic'{correlation_id = Asked, reply_to = Replies},
        payload = list_to_binary(Body)
    },
    ok = amqp_channel:cast(Channel, #'basic.publish'{routing_key = Requests}, Request),
    {Type, Answer} = answer(Asked),
    ok = amqp_connection:close(Connection),
    ok = file:write(standard_io, [Answer, "\n"]),
    halt(case Type of <<"error">> -> 1; _ -> 0 end).

answer(Asked) ->
    receive
        {#'basic.deliver'{}, #amqp_msg{
            props = #'P_basic'{correlation_id = Asked, type = Type}, payload = Answer
        }} ->
            {Type, Answer};
        {#'basic.deliver'{}, _OfAnotherCall} ->
            answer(Asked)
    end.

#!/usr/bin/env escript
%% RPC over RabbitMQ with the ready-made client of its Erlang library, `amqp_rpc_client`. Its ids
%% count, as eight bytes in base64. It shows the body of a reply only, so that an error looks like
%% a result.

-mode(compile).
-include_lib("amqp_client/include/amqp_client.hrl").

main([Url, Queue, Body]) ->
    {ok, _} = application:ensure_all_started(amqp_client),
    {ok, Params} = amqp_uri:parse(Url),
    {ok, Connection} = amqp_connection:start(Params),
    Client = amqp_rpc_client:start(Connection, list_to_binary(Queue)),
    Answer = amqp_rpc_client:call(Client, list_to_binary(Body)),
    amqp_rpc_client:stop(Client),
    ok = amqp_connection:close(Connection),
    ok = file:write(standard_io, [Answer, "\n"]).

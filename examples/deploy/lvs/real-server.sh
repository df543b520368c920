#!/bin/sh
# On each RabbitMQ node behind LVS with direct routing: takes packets for the shared address, and
# keeps quiet about it in the network, where only the balancer may answer for it. As root, at each
# start of the machine.
#
#   real-server.sh start|stop [ADDRESS]
set -eu

address=${2:-192.0.2.100}

case ${1:-} in
    start)
        # Answer ARP only for addresses of the interface that was asked, and never name the
        # shared address as the asking one.
        for interface in all lo; do
            sysctl -qw "net.ipv4.conf.$interface.arp_ignore=1" \
                "net.ipv4.conf.$interface.arp_announce=2"
        done
        ip address replace "$address/32" dev lo label lo:rabbitmq
        ;;
    stop)
        ip address del "$address/32" dev lo
        for interface in all lo; do
            sysctl -qw "net.ipv4.conf.$interface.arp_ignore=0" \
                "net.ipv4.conf.$interface.arp_announce=0"
        done
        ;;
    *)
        echo "usage: real-server.sh start|stop [ADDRESS]" >&2
        exit 2
        ;;
esac

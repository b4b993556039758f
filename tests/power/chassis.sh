#!/bin/sh
# The machine behind ipmi_sim in tests/power/ipmi_peers.py: a QEMU with nothing but firmware, in the folder $1.
# ipmi_sim calls it as `... get power boot` (it reads "name:value" lines) and `... set power 1`, see ipmi_lan(5).
cd "$1" || exit 1
verb=$2
shift 2
echo "$verb $*" >>calls
# A BMC that takes commands and does nothing.
[ "$verb" = set ] && [ -e ignores ] && exit 0

running() {
    [ -s pid ] && kill -0 "$(cat pid)" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$(cat pid)/status"
}

monitor() {
    python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(2)
s.connect("monitor")
s.recv(4096)
s.sendall(sys.argv[1].encode() + b"\n")
s.recv(4096)' "$1"
}

start() {
    running && return
    echo x >>starts
    qemu-system-x86_64 -machine pc,graphics=off -accel tcg -m 32 -nodefaults -display none -daemonize -pidfile pid \
        -boot "$([ "$(cat boot 2>/dev/null)" = pxe ] && echo n || echo c)" \
        -chardev "socket,id=monitor,path=monitor,server=on,wait=off" -mon chardev=monitor
}

stop() {
    running || return
    kill -9 "$(cat pid)"
    while running; do sleep 0.02; done
    rm -f pid
}

case $verb in
get)
    for name; do
        case $name in
        power) running && echo power:1 || echo power:0 ;;
        boot) echo "boot:$(cat boot 2>/dev/null || echo none)" ;;
        *) echo "$name:0" ;;
        esac
    done
    ;;
set)
    while [ $# -gt 1 ]; do
        case $1:$2 in
        power:1) start ;;
        power:0) stop ;;
        reset:*) running && monitor system_reset ;;
        shutdown:*) running && monitor system_powerdown ;;
        boot:*) echo "$2" >boot ;;
        esac
        shift 2
    done
    ;;
esac </dev/null 2>>errors
exit 0

#!/bin/sh
# What ipmi_sim calls to do what its users ask for; it gives the words after the first line of arguments below:
#     chassis DOMAIN URI FOLDER   get|set power|reset|shutdown|boot|identify [VALUE] ...
#     lan FILE                    get|set|check ip_addr|mac_addr|... [VALUE] ...
# It reads "name:value" lines, and a name that it asked for and does not find is its end. A status other than 0 becomes
# completion code 0xff. Of a boot option it passes on the device alone, not whether it is for one boot: it holds until
# changed. FOLDER has the domain as it is with the network and with the disk first, and what was set last (`boot`).
what=$1

chassis_get() {
    case $1 in
    power) [ "$(virsh -q -c "$uri" domstate "$domain")" = "shut off" ] && echo power:0 || echo power:1 ;;
    boot) echo "boot:$(cat "$folder/boot" 2>/dev/null || echo none)" ;;
    *) echo "$1:0" ;;
    esac
}

chassis_set() {
    power=$(chassis_get power)
    case $1:$2 in
    power:1) [ "$power" = power:1 ] || virsh -q -c "$uri" start "$domain" ;;
    power:0) [ "$power" = power:0 ] || virsh -q -c "$uri" destroy "$domain" ;;
    reset:*) [ "$power" = power:0 ] || virsh -q -c "$uri" reset "$domain" ;;
    shutdown:*) [ "$power" = power:0 ] || virsh -q -c "$uri" shutdown "$domain" ;;
    boot:none | boot:pxe) virsh -q -c "$uri" define "$folder/network.xml" && echo "$2" >"$folder/boot" ;;
    boot:default) virsh -q -c "$uri" define "$folder/disk.xml" && echo "$2" >"$folder/boot" ;;
    identify:*) ;;
    *) echo "cannot set $1 to $2"; return 1 ;;
    esac >&2
}

lan_get() {
    # The last line with a name is what was set last.
    sed -n "s/^$1:/&/p" "$file" | tail -n 1
}

lan_set() {
    echo "$1:$2" >>"$file"
}

case $what in
chassis) domain=$2 uri=$3 folder=$4; shift 4 ;;
lan) file=$2; shift 2 ;;
esac
verb=$1
shift
case $verb in
get) for name in "$@"; do "${what}_get" "$name"; done ;;
set) while [ $# -gt 1 ]; do "${what}_set" "$1" "$2" || exit 1; shift 2; done ;;
esac

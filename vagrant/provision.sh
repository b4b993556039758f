#!/bin/sh
# Makes a Debian machine a metalbox server from the checkout in /srv/metalbox; safe to run again.
set -eu

interface=$(ip -o -4 address show to 192.0.2.0/24 | awk '{ print $2; exit }')
[ -n "$interface" ] || { echo "no interface has an address in 192.0.2.0/24" >&2; exit 1; }

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends python3-venv ipxe dpkg-dev kmod cpio zstd

python3 -m venv /opt/metalbox
/opt/metalbox/bin/pip install --quiet /srv/metalbox
ln -sf /opt/metalbox/bin/metalbox /usr/local/bin/metalbox

install -d /etc/metalbox /var/lib/metalbox /run/metalbox
cat >/etc/metalbox/metalbox.yaml <<EOF
dhcp:
  interfaces: [$interface]
subnets:
  - subnet: 192.0.2.0/24
    interface: $interface
    mode: full
    pools: [192.0.2.100-192.0.2.199]
EOF
metalbox config check /etc/metalbox/metalbox.yaml
metalbox agent build --output /var/lib/metalbox/agent

sed 's#/usr/bin/metalbox#/opt/metalbox/bin/metalbox#' /srv/metalbox/configs/metalbox.service \
    >/etc/systemd/system/metalbox.service
systemctl daemon-reload
systemctl enable --quiet metalbox
systemctl restart metalbox

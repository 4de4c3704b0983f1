#!/bin/bash
# Takes this Envoy out of service without losing a call. Kubernetes runs it (preStop) before it sends
# SIGTERM, at which Envoy cuts everything at once. It speaks to the admin interface by bash's own
# sockets: the image has no curl.
#
#   SETTLE_S    until no node sends new connections here: the pod's address leaves the Service at the
#               same moment as this starts, and each node hears of it a little later
#   CALLS_S     how long calls under way get; watches last for ever, and are cut then
set -u
admin_port=${ADMIN_PORT:-9901} settle_s=${SETTLE_S:-5} calls_s=${CALLS_S:-30}

admin() { # METHOD PATH: prints the answer
    exec 3<>"/dev/tcp/127.0.0.1/$admin_port" || return
    printf '%s %s HTTP/1.1\r\nhost: drain\r\nconnection: close\r\ncontent-length: 0\r\n\r\n' "$1" "$2" >&3
    cat <&3
    exec 3>&-
}

calls() { # the calls under way; nothing when Envoy does not answer
    admin GET '/stats?filter=^http.door.downstream_rq_active$' | tr -d '\r' |
        sed -n 's/^http\.door\.downstream_rq_active: //p'
}

# /readyz fails from now on, and each answer tells its caller to use another connection next time.
# Nobody is refused: new connections are served until Envoy ends.
admin POST /healthcheck/fail >/dev/null
admin POST '/drain_listeners?graceful' >/dev/null
sleep "$settle_s"

# Done when there has been no call for a second; one look may fall between two calls.
quiet=0
for ((look = 0; look < calls_s * 5 && quiet < 5; look++)); do
    if [[ $(calls) == 0 ]]; then ((quiet += 1)); else quiet=0; fi
    sleep 0.2
done
exit 0 # Kubernetes ends Envoy whatever this says, and would only note a failure

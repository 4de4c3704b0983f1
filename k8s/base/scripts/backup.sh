#!/bin/bash
# Dumps the database into BACKUPS, proves that the dump can be read to its end, and only then lets
# the oldest go, so that KEEP good ones are there whatever happens. Where the database is, libpq's own
# variables say (PGHOST, PGDATABASE, PGUSER, PGPASSWORD).
set -euo pipefail
backups=${BACKUPS:-/backups} keep=${KEEP:-14}

fail() {
    echo "No backup was made: $1. The earlier ones are untouched." >&2
    exit 1
}

[[ $keep =~ ^[1-9][0-9]*$ ]] || fail "KEEP is '$keep', not a number of backups to keep"
cd "$backups" || fail "$backups cannot be entered"
rm -f ./*.part # of one that was killed; the CronJob never runs two at a time
name=efficientfrontier-$(date -u +%Y%m%dT%H%M%SZ).dump
trap 'rm -f "$name.part" "$name.sha256.part"' EXIT

pg_dump --format=custom --no-password --file="$name.part" || fail "pg_dump failed"
# The list alone stands at the file's beginning, and would not miss the rest. So the whole is read.
contents=$(pg_restore --list "$name.part") || fail "the dump has no table of contents"
grep -q 'TABLE DATA public orders ' <<<"$contents" ||
    fail "the dump holds no orders: is $PGDATABASE on $PGHOST the router's database?"
pg_restore --file=/dev/null "$name.part" || fail "the dump cannot be read to its end"

sum=$(sha256sum <"$name.part")
echo "${sum%% *}  $name" >"$name.sha256.part"
sync "$name.part" "$name.sha256.part"
mv "$name.sha256.part" "$name.sha256"
mv "$name.part" "$name" # from here on it counts
sync .

mapfile -t dumps < <(printf '%s\n' efficientfrontier-*.dump | sort --reverse)
for old in "${dumps[@]:keep}"; do
    rm -f "$old" "$old.sha256"
done
echo "$name: $(stat --format=%s "$name") bytes, read to its end; ${#dumps[@]} backups, $keep are kept."

#!/bin/bash
# Puts the database back to a backup: all of it or nothing, in one transaction. What the database
# holds before that is dumped first, beside the backups, as before-restore-TIME.dump.
#
#   BACKUP    the file's name in BACKUPS, or "latest"
#
# No router may run meanwhile: kubectl scale deployment/efficientfrontier-router --replicas=0
set -euo pipefail
backups=${BACKUPS:-/backups} backup=${BACKUP:-latest}

fail() {
    echo "Nothing was restored: $1" >&2
    exit 1
}
ask() { psql --no-psqlrc --no-password --tuples-only --no-align --set=ON_ERROR_STOP=1 --command="$1"; }

cd "$backups" || fail "$backups cannot be entered."
if [[ $backup == latest ]]; then
    backup=$(printf '%s\n' efficientfrontier-*.dump | sort | tail -n 1)
fi
[[ -f $backup ]] || fail "there is no $backup. There are: $(echo ./*.dump)"
if [[ -f $backup.sha256 ]]; then
    sha256sum --check --status "$backup.sha256" || fail "$backup is not as it was written (its sum differs)."
fi
pg_restore --file=/dev/null "$backup" || fail "$backup cannot be read to its end."

routers=$(ask "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name LIKE 'efficientfrontier-%'") || fail "the database does not answer."
[[ $routers == 0 ]] || fail "routers are connected ($routers sessions). Stop them first:
    kubectl -n efficientfrontier scale deployment/efficientfrontier-router --replicas=0"

if [[ $(ask "SELECT to_regclass('public.orders') IS NOT NULL") == t ]]; then
    before=before-restore-$(date -u +%Y%m%dT%H%M%S.%NZ).dump # never over another, least of all over $backup
    pg_dump --format=custom --no-password --file="$before" ||
        { rm -f "$before"; fail "what is there could not be dumped."; }
    echo "What was there until now is in $before."
fi

# The schema goes as a whole, because the backup knows nothing of tables that came after it. COMMIT is
# sent only when pg_restore has told all; else the session ends, and with it the transaction.
{
    echo 'BEGIN; DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;'
    pg_restore --no-owner --no-privileges --file=- "$backup" && echo 'COMMIT;'
} | psql --no-psqlrc --no-password --quiet --set=ON_ERROR_STOP=1 --output=/dev/null ||
    fail "$backup was refused; the database is as it was."
[[ $(ask "SELECT to_regclass('public.orders') IS NOT NULL") == t ]] || fail "the orders did not arrive."
echo "Restored $backup: $(ask 'SELECT count(*) FROM orders') orders. Start the routers again, then GET /audit."

#!/bin/bash
# Run by the image, once, when it has made an empty server: the router's role, which owns its database
# and can do nothing beyond it, and that database.
set -euo pipefail

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=password="$ROUTER_PASSWORD" \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE efficientfrontier LOGIN PASSWORD :'password';
CREATE DATABASE efficientfrontier OWNER efficientfrontier;
REVOKE CONNECT ON DATABASE efficientfrontier FROM PUBLIC;
SQL

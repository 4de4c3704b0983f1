#!/bin/bash
# Run by the image, once, when it has made an empty server: the router's role, which owns its database
# and can do nothing beyond it, and that database.
set -euo pipefail

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv given ROUTER_PASSWORD
CREATE ROLE efficientfrontier LOGIN PASSWORD :'given';
CREATE DATABASE efficientfrontier OWNER efficientfrontier;
REVOKE CONNECT ON DATABASE efficientfrontier FROM PUBLIC;
SQL

#!/bin/sh
# What postgres:17 does with these variables, as far as we use it: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD or
# POSTGRES_PASSWORD_FILE, POSTGRES_INITDB_ARGS, PGDATA. Runs as the user postgres.
set -eu
[ "${1-}" = postgres ] || exec "$@"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    password=${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")}
    [ -n "$password" ] || { echo "POSTGRES_PASSWORD_FILE names no file with a password in it: name one." >&2; exit 1; }
    umask 077
    echo "$password" > /tmp/password
    # shellcheck disable=SC2086 # a list of words
    initdb --pgdata "$PGDATA" --username "$user" --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256 \
        ${POSTGRES_INITDB_ARGS-}
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    if [ "$database" != postgres ]; then
        pg_ctl --pgdata "$PGDATA" --options "-c listen_addresses=" --wait start
        createdb --username "$user" --maintenance-db postgres "$database"
        pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
    fi
fi
exec "$@" -c listen_addresses='*'

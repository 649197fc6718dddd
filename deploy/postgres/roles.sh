#!/bin/sh
# Runs once, when PostgreSQL's container makes its data folder: a role and a database each for Millrace and for the
# schema registry, so that neither is a superuser nor sees the other's tables.
set -eu

for role in millrace registry; do
  case $role in
    millrace) password=$MILLRACE_DB_PASSWORD ;;
    registry) password=$REGISTRY_DB_PASSWORD ;;
  esac
  # The password goes through psql's own quoting.
  psql -v ON_ERROR_STOP=1 -v role="$role" -v password="$password" --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
create role :"role" login password :'password';
create database :"role" owner :"role";
revoke connect on database :"role" from public;
SQL
done

//! Postgres: pool, migrations, parameterised queries.

-- A KPI's whole definition is in the database: it says what the rows were folded by, and the projector folds by it.
alter table kpi_definitions
    add column windows     text[],
    add column lateness_ms bigint;

-- Counts the changes of the definitions. Every write of KPI rows names the count that its definitions were read at, so
-- that a projector which has not heard of a change writes nothing by the old ones.
alter table projector_positions
    add column definitions bigint not null default 0;

-- A rebuild of KPIs that is under way; there is one at a time. `run` counts the processes that worked on it.
create table kpi_rebuild (
    only_one    boolean     primary key default true check (only_one),
    run         bigint      not null,
    definitions text        not null,
    started_at  timestamptz not null default now()
);

-- How far it has read each partition of the fact topic. `oldest` is the first fact that Kafka had when it began.
create table kpi_rebuild_positions (
    partition   integer primary key,
    run         bigint  not null,
    oldest      bigint  not null,
    next_offset bigint  not null,
    time_max    timestamptz
) with (fillfactor = 50);

-- Rows of a rebuild, until they take the place of those in kpi_part.
create table kpi_rebuild_part (like kpi_part including all);

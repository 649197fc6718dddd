-- What the projector writes. Rows and the position they follow from are always written in one transaction.

-- How far a partition has been folded. `epoch` counts owners: every write names the epoch it was given, so that an
-- owner that has been replaced writes nothing any more. fillfactor: updated at every batch, in place.
create table projector_positions (
    grp         text        not null,
    topic       text        not null,
    partition   integer     not null,
    next_offset bigint      not null,
    epoch       bigint      not null,
    time_max    timestamptz,
    updated_at  timestamptz not null default now(),
    primary key (grp, topic, partition)
) with (fillfactor = 50);

-- Records that could not be folded, with the first bytes of their value.
create table projector_rejects (
    topic       text        not null,
    partition   integer     not null,
    "offset"    bigint      not null,
    reason      text        not null,
    detail      text        not null,
    key         bytea,
    value       bytea,
    value_bytes bigint,
    rejected_at timestamptz not null default now(),
    primary key (topic, partition, "offset")
);

-- One row per record and pipeline: the ledger.
create table executions (
    pipeline     text        not null,
    topic        text        not null,
    partition    integer     not null,
    "offset"     bigint      not null,
    outcome      text        not null,
    stage        text,
    error_class  text,
    error        text,
    attempts     integer     not null,
    event_id     text        not null,
    event_source text        not null,
    event_type   text        not null,
    tenant       text,
    event_time   timestamptz not null,
    started_at   timestamptz not null,
    duration_us  bigint      not null,
    records_out  integer     not null,
    config_hash  text        not null,
    primary key (pipeline, topic, partition, "offset")
);

-- Small, and cheap to keep at high rates; results arrive roughly in the order of time.
create index executions_started_at on executions using brin (started_at);

-- What each KPI is folded by. A KPI whose definition has changed is another KPI.
create table kpi_definitions (
    kpi        text        primary key,
    fact       text        not null,
    aggregate  text        not null,
    dimensions text[]      not null,
    time_zone  text        not null,
    created_at timestamptz not null default now()
);

-- KPI rows, one per partition of the fact topic, so that no two transactions ever want the same row.
-- `dimensions` is a JSON object with sorted keys.
create table kpi_part (
    kpi          text        not null,
    window_size  text        not null,
    window_start timestamptz not null,
    dimensions   text        collate "C" not null,
    partition    integer     not null,
    window_end   timestamptz not null,
    events       bigint      not null,
    sum          numeric     not null,
    min          numeric     not null,
    max          numeric     not null,
    late_events  bigint      not null,
    revision     bigint      not null,
    updated_at   timestamptz not null default now(),
    primary key (kpi, window_size, window_start, dimensions, partition)
) with (fillfactor = 70);

-- Rows whose value has not been written to the KPI topic since they last changed.
create table kpi_unpublished (
    kpi          text        not null,
    window_size  text        not null,
    window_start timestamptz not null,
    dimensions   text        collate "C" not null,
    partition    integer     not null,
    change       bigint      generated always as identity,
    primary key (kpi, window_size, window_start, dimensions, partition)
) with (fillfactor = 70);

-- Facts that a KPI refused.
create table kpi_rejected (
    kpi         text        not null,
    topic       text        not null,
    partition   integer     not null,
    "offset"    bigint      not null,
    reason      text        not null,
    fact        text        not null,
    value       text        not null,
    time        text        not null,
    dimensions  text        not null,
    rejected_at timestamptz not null default now(),
    primary key (kpi, topic, partition, "offset")
);

create view kpi_values as
select rows.kpi,
       rows.window_size,
       rows.window_start,
       rows.window_end,
       rows.dimensions::jsonb as dimensions,
       case definition.aggregate
           when 'count' then rows.events::numeric
           when 'sum' then rows.sum
           when 'avg' then rows.sum / rows.events
           when 'min' then rows.min
           when 'max' then rows.max
       end as value,
       rows.events,
       rows.late_events,
       rows.revision,
       rows.updated_at
from (
    select kpi, window_size, window_start, dimensions,
           max(window_end) as window_end,
           sum(events)::bigint as events,
           sum(sum) as sum,
           min(min) as min,
           max(max) as max,
           sum(late_events)::bigint as late_events,
           sum(revision)::bigint as revision,
           max(updated_at) as updated_at
    from kpi_part
    group by kpi, window_size, window_start, dimensions
) rows
join kpi_definitions definition using (kpi);

-- Keys that `dedupe` stages have seen. `owner` is the record that brought the key first: topic/partition/offset, with
-- the element's number within a `for_each`.
create table dedupe_keys (
    scope text not null,
    key_hash bytea not null,
    owner text not null,
    expires_at timestamptz not null,
    primary key (scope, key_hash)
);
create index dedupe_keys_expires_at on dedupe_keys (expires_at);

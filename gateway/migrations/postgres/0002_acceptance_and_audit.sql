-- What operators decided about each relationship. It outlives the relationship, so that nothing is thawed by removing
-- one and making it again. highest_sequence is the sequence below which a fetched bundle is a rollback.
create table relationship_controls (
    trust_domain     text primary key not null,
    highest_sequence bigint,
    frozen_at        bigint,
    frozen_by        text,
    frozen_why       text,
    expired_at       bigint
);

-- Digest of the bundle the entity tag stands for.
alter table relationships add column etag_digest text;

-- The last fetched bundle that is not in force because an operator has to decide, or rejected it. One a partner.
create table offered_bundles (
    trust_domain text primary key not null,
    offered_at   bigint not null,
    reason       text not null,
    rejected_at  bigint,
    digest       text not null,
    source_url   text not null,
    document     bytea not null
);

-- How a bundle came in force: refresh, approval or restore.
alter table bundle_history add column via text not null default 'refresh';

-- What was delivered, as issuers keep it, and since when an issuer holds something else.
alter table deliveries add column content_digest text;
alter table deliveries add column drift_since bigint;
alter table deliveries add column drift_digest text;

-- The relationships of the configuration at the last start, so that a change of it is recorded.
create table configured_relationships (
    trust_domain text primary key not null,
    definition   text not null
);

-- Append-only. hash is the lowercase hex SHA-256 of the previous record's hash (its 32 bytes) and the record's text.
create table audit_log (
    sequence bigint primary key not null,
    record   text not null,
    hash     text not null
);

create function refuse_change_of_audit_log() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only';
end
$$;

create trigger audit_log_keeps_records before update on audit_log
    for each row execute function refuse_change_of_audit_log();

create trigger audit_log_loses_nothing before delete on audit_log
    for each row execute function refuse_change_of_audit_log();

create trigger audit_log_is_not_emptied before truncate on audit_log
    for each statement execute function refuse_change_of_audit_log();

-- The last record, kept apart so that a shortened log is noticed.
create table audit_head (
    only_row bigint primary key not null check (only_row = 1),
    sequence bigint not null,
    hash     text not null
);

insert into audit_head (only_row, sequence, hash)
    values (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- Only gateways that share a database on PostgreSQL use these.

-- The gateways that are alive. Times are Unix milliseconds of the database's clock.
create table replicas (
    id         text primary key not null,
    name       text not null,
    started_at bigint not null,
    expires_at bigint not null
);

-- Who works on which part of the relationships; valid while its holder is alive. fencing grows with each holder.
create table leases (
    shard   bigint primary key not null,
    holder  text,
    fencing bigint not null
);

-- What changed last, and who changed it: numbers grow in the order of the commits.
create table changes (
    kind    text not null,
    name    text not null,
    number  bigint not null,
    replica text not null,
    primary key (kind, name)
);

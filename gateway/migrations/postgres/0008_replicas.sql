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

insert into leases (shard, holder, fencing) select shard, null, 0 from generate_series(0, 255) as shard;

-- What changed last, and who changed it: numbers grow in the order of the commits, because writing transactions follow
-- each other.
create sequence change_numbers;

create table changes (
    kind    text not null,
    name    text not null,
    number  bigint not null,
    replica text not null,
    primary key (kind, name)
);

create index changes_by_number on changes (number);

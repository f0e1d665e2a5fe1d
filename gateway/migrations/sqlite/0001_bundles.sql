-- Times are Unix seconds. Bundles are SPIFFE JSON documents; digest is the lowercase hex SHA-256 of that document.

-- The own bundle of each served trust domain, as its source last gave it.
create table served_bundles (
    trust_domain text primary key not null,
    document     blob not null,
    digest       text not null,
    changed_at   bigint not null
);

-- Every accepted bundle of every partner, oldest first by id.
create table bundle_history (
    id             integer primary key not null,
    trust_domain   text not null,
    accepted_at    bigint not null,
    sequence       bigint,
    digest         text not null,
    content_digest text not null,
    source_url     text not null,
    document       blob not null,
    x509_added     bigint not null,
    x509_removed   bigint not null,
    jwt_added      bigint not null,
    jwt_removed    bigint not null
);

create index bundle_history_by_trust_domain on bundle_history (trust_domain, id);

-- The bundle in force of each partner. It outlives the relationship.
create table partner_bundles (
    trust_domain text primary key not null,
    history_id   bigint not null references bundle_history (id)
);

-- How each relationship is doing.
create table relationships (
    trust_domain         text primary key not null,
    last_attempt         bigint,
    last_success         bigint,
    next_refresh         bigint,
    last_error           text,
    consecutive_failures bigint not null default 0,
    etag                 text,
    etag_url             text,
    highest_sequence     bigint,
    bootstrap_digest     text
);

-- Relationships created at an issuer, as last seen there, so that polling goes on while the issuer is away.
create table issuer_relationships (
    local_trust_domain text not null,
    trust_domain       text not null,
    url                text not null,
    endpoint_spiffe_id text,
    bootstrap          blob,
    primary key (local_trust_domain, trust_domain)
);

-- What each issuer confirmed to hold.
create table deliveries (
    local_trust_domain text not null,
    trust_domain       text not null,
    digest             text,
    delivered_at       bigint,
    last_error         text,
    primary key (local_trust_domain, trust_domain)
);

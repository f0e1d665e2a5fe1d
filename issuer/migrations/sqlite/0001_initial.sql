-- Landed migrations are never edited: add another file.

-- What this database is for.
create table issuer (
    id integer primary key check (id = 1),
    trust_domain text not null
);

-- Every write transaction takes the next value and marks the rows it touches with it (columns `changed`).
create table change_counter (
    id integer primary key check (id = 1),
    value integer not null,
    -- Removals up to this value may have been forgotten.
    forgotten integer not null
);
insert into change_counter (id, value, forgotten) values (1, 0, 0);

-- Names of rows that are gone, for readers that follow the changes.
create table removals (
    row_id integer primary key autoincrement,
    kind text not null,
    name text not null,
    changed integer not null
);
create index removals_changed on removals (kind, changed);

create table entries (
    row_id integer primary key autoincrement,
    id text not null unique,
    parent_id text not null,
    spiffe_id text not null,
    -- SHA-256 of the sorted selectors, hex: equal sets have equal digests.
    selectors_digest text not null,
    -- JSON arrays of text, in the order given.
    selectors text not null,
    federates_with text not null,
    dns_names text not null,
    x509_svid_ttl integer not null,
    jwt_svid_ttl integer not null,
    admin boolean not null,
    downstream boolean not null,
    expires_at integer not null,
    store_svid boolean not null,
    hint text not null,
    -- JSON object, null when none were given.
    additional_attributes text,
    revision_number integer not null,
    created_at integer not null,
    changed integer not null,
    unique (parent_id, spiffe_id, selectors_digest)
);
create index entries_parent on entries (parent_id, row_id);
create index entries_spiffe_id on entries (spiffe_id, row_id);
create index entries_changed on entries (changed);
create index entries_expires_at on entries (expires_at) where expires_at <> 0;

-- The selectors and federated domains of entries again, to find entries by them.
create table entry_selectors (
    entry_row integer not null references entries (row_id) on delete cascade,
    selector text not null,
    primary key (entry_row, selector)
) without rowid;
create index entry_selectors_selector on entry_selectors (selector, entry_row);

create table entry_federations (
    entry_row integer not null references entries (row_id) on delete cascade,
    trust_domain text not null,
    primary key (entry_row, trust_domain)
) without rowid;
create index entry_federations_trust_domain on entry_federations (trust_domain, entry_row);

create table nodes (
    row_id integer primary key autoincrement,
    agent_id text not null unique,
    attestation_type text not null,
    -- Decimal; empty means banned.
    serial_number text not null,
    expires_at integer not null,
    new_serial_number text not null,
    new_expires_at integer not null,
    can_reattest boolean not null,
    agent_version text not null,
    -- JSON array of text, sorted.
    selectors text not null,
    changed integer not null
);
create index nodes_changed on nodes (changed);

create table node_selectors (
    node_row integer not null references nodes (row_id) on delete cascade,
    selector text not null,
    primary key (node_row, selector)
) without rowid;
create index node_selectors_selector on node_selectors (selector, node_row);

-- Spent tokens stay, so that a value cannot be used or created again.
create table join_tokens (
    -- SHA-256 of the value, hex.
    digest text primary key,
    expires_at integer not null,
    spent_at integer
);
create index join_tokens_expires_at on join_tokens (expires_at);

create table bundles (
    row_id integer primary key autoincrement,
    trust_domain text not null unique,
    -- JSON arrays: {"certificate": base64, "tainted": bool}, {"key_id", "public_key": base64, "expires_at", "tainted"}.
    x509_authorities text not null,
    jwt_authorities text not null,
    wit_authorities text not null,
    -- Seconds; null when not known.
    refresh_hint integer,
    sequence_number integer,
    changed integer not null
);
create index bundles_changed on bundles (changed);

create table federation_relationships (
    row_id integer primary key autoincrement,
    trust_domain text not null unique,
    bundle_endpoint_url text not null,
    -- https_web or https_spiffe
    bundle_endpoint_profile text not null,
    -- Only for https_spiffe.
    endpoint_spiffe_id text,
    changed integer not null
);

-- The authorities this server made: the newest row of each kind and slot is what the slot holds.
create table ca_journal (
    row_id integer primary key autoincrement,
    -- x509 or jwt
    kind text not null,
    -- A or B
    slot text not null,
    authority_id text not null,
    -- prepared, active or old
    status text not null,
    issued_at integer not null,
    not_after integer not null,
    -- SubjectPublicKeyInfo, base64.
    public_key text not null,
    -- JSON array of base64 DER, the CA certificate first, roots of an upstream authority excluded; empty for jwt.
    certificate_chain text not null,
    -- Hex; empty without upstream authority.
    upstream_authority_id text not null,
    unique (kind, authority_id)
);

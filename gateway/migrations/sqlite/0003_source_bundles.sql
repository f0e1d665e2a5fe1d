-- What each source of a served trust domain last gave and was accepted, as a SPIFFE JSON document. source is the key of
-- the configuration: kind and place.
create table source_bundles (
    trust_domain text not null,
    source       text not null,
    document     blob not null,
    accepted_at  bigint not null,
    primary key (trust_domain, source)
);

-- Relationships managed over the admin API. definition is canonical JSON with the keys of the configuration that were
-- given; set_name is the set it was applied with, if it was; version is the number of the audit record of the last change.
create table managed_relationships (
    trust_domain text primary key not null,
    definition   text not null,
    set_name     text,
    version      bigint not null,
    changed_at   bigint not null
);

-- The trust domain a record is about: its subject without the issuer or publisher of `trust domain at place`; null for a
-- damaged record.
create function audit_record_is_about(record text) returns text language plpgsql immutable as $$
begin
    return split_part(record::json ->> 'subject', ' at ', 1);
exception when others then
    return null;
end
$$;

-- Computed from the record itself, so that the two never differ.
alter table audit_log add column about text generated always as (audit_record_is_about(record)) stored;

create index audit_log_by_subject on audit_log (about, sequence);

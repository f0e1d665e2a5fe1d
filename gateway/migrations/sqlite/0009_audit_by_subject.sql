-- The trust domain a record is about: its subject without the issuer or publisher of `trust domain at place`. Computed
-- from the record itself, so that the two never differ; null for a damaged record.
alter table audit_log add column about text generated always as (
    case when json_valid(record) then
        substr(json_extract(record, '$.subject'), 1, instr(json_extract(record, '$.subject') || ' at ', ' at ') - 1)
    end
) virtual;

-- Records of one trust domain follow each other by sequence, the table's key.
create index audit_log_by_subject on audit_log (about);

-- Content digest of a bundle that was sent to the issuer and not confirmed: it may be there.
alter table deliveries add column sent_digest text;

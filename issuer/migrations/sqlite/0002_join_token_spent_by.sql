-- SHA-256 of the public key (SubjectPublicKeyInfo) of the agent that spent the token, hex.
alter table join_tokens add column spent_by text;

-- Since when a source is held back, and a mark of what it gives instead (why and which keys).
alter table source_bundles add column held_at bigint;
alter table source_bundles add column held_mark text;

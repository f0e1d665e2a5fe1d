-- When the partner last served the bundle in force. Until now any acceptable answer counted as that.
alter table relationships add column confirmed_at bigint;

update relationships set confirmed_at = last_success;

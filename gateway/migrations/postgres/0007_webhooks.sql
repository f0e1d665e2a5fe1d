-- A rollback of the partner that is recorded: the sequence and the keys it gave.
alter table relationship_controls add column refused_rollback text;

-- Messages to webhooks in the order they happened, until every webhook got them.
create table webhook_messages (
    sequence    bigint primary key not null,
    id          text not null,
    kind        text not null,
    happened_at bigint not null,
    body        text not null
);

-- The number of the last message.
create table webhook_head (
    only_row bigint primary key not null check (only_row = 1),
    sequence bigint not null
);

insert into webhook_head (only_row, sequence) values (1, 0);

-- The configured webhooks and how far each has got.
create table webhooks (
    name                 text primary key not null,
    delivered_to         bigint not null,
    last_success         bigint,
    last_attempt         bigint,
    last_error           text,
    consecutive_failures bigint not null,
    dropped              bigint not null,
    dropping_since       bigint
);

-- What lasts and was told of.
create table webhook_conditions (
    kind    text not null,
    subject text not null,
    since   bigint not null,
    primary key (kind, subject)
);

-- How each publisher is doing, so that every gateway can say so and the next one goes on from there. Kept where several
-- gateways share the database; place is the place in words, as in publications.
create table publisher_states (
    trust_domain         text not null,
    publisher            text not null,
    place                text not null,
    last_success         bigint,
    last_attempt         bigint,
    next_attempt         bigint,
    consecutive_failures bigint not null,
    last_error           text,
    drift_at             bigint,
    drift_digest         text,
    drift_count          bigint not null,
    primary key (trust_domain, publisher)
);

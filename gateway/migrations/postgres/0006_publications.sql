-- What each publisher last saw its place hold. publisher is its name in the configuration, place the place in words.
create table publications (
    trust_domain text not null,
    publisher    text not null,
    place        text not null,
    digest       text not null,
    sequence     bigint,
    changed_at   bigint not null,
    confirmed_at bigint not null,
    primary key (trust_domain, publisher)
);

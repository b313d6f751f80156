-- What a replay or redrive has come to, kept as far as it is final. Its rows are counted on from
-- `counted_to` at each reading; below it each has been delivered or is dead. So reading stays cheap, and
-- what a replay has done stays told when later asks take its rows over or retention drops them.
alter table replay
    add column counted_to bigint not null default 0,
    add column delivered  bigint not null default 0,
    add column dead       bigint not null default 0;

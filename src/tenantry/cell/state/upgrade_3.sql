-- From version 2 to 3: consumption by hour, day and month instead of one counter for all time.
drop table meter;

-- What branches consumed, by hour, day and month: the same amounts are added to all three. Branches may be gone.
create table usage (
    project_id text not null references project (id) on delete cascade,
    grain text not null,
    start text not null,
    branch_id text not null,
    active_seconds real not null,
    compute_seconds real not null,
    written_bytes integer not null,
    sent_bytes integer not null,
    primary key (project_id, grain, start, branch_id)
) strict, without rowid;

-- What a branch occupies from a moment on; nothing once it is gone for good.
create table size_step (
    project_id text not null references project (id) on delete cascade,
    branch_id text not null,
    at text not null,
    logical_bytes integer not null,
    history_bytes integer not null,
    primary key (project_id, branch_id, at)
) strict, without rowid;
create trigger branch_occupies_nothing after delete on branch
when exists (select 1 from project where id = old.project_id)
begin
    insert or replace into size_step (project_id, branch_id, at, logical_bytes, history_bytes)
    values (old.project_id, old.id, strftime('%Y-%m-%dT%H:%M:%S+00:00'), 0, 0);
end;

-- How far the last reading of each instance's process, of each head's log and of each worker's reports went.
create table process_reading (
    endpoint_id text primary key references endpoint (id) on delete cascade,
    pid integer not null,
    start_ticks integer not null,
    seconds real not null,
    cu real not null
) strict;
create table log_reading (
    head_id text primary key references head (id) on delete cascade,
    lsn integer not null
) strict;
create table worker_report (
    ordinal integer primary key autoincrement,
    worker text not null unique,
    number integer not null
) strict;

-- From version 1 to 2: deleted branches and projects stay for a while. Runs in a transaction, without foreign keys.
create index project_deleted on project (deleted_at) where deleted_at is not null;

-- The name was unique among all branches, which cannot be altered.
create table branch_2 (
    id text primary key,
    project_id text not null references project (id) on delete cascade,
    name text not null,
    parent_id text references branch (id),
    parent_lsn text,
    parent_timestamp text,
    state text not null,
    state_changed_at text not null,
    is_default integer not null,
    protected integer not null,
    head_id text not null references head (id) deferrable initially deferred,
    logical_size integer,
    expires_at text,
    created_at text not null,
    updated_at text not null,
    deleted_at text,
    deletion_method text,
    init_source text not null,
    restore_status text,
    restored_from text,
    restored_as text
) strict;
insert into branch_2
select id, project_id, name, parent_id, parent_lsn, parent_timestamp, state, state_changed_at, is_default, protected,
    head_id, logical_size, expires_at, created_at, updated_at, null, null, 'parent-data', null, null, null
from branch;
drop table branch;
alter table branch_2 rename to branch;
create index branch_by_parent on branch (parent_id);
create index branch_by_project on branch (project_id);
create unique index branch_by_name on branch (project_id, name) where deleted_at is null;
create index branch_deleted on branch (deleted_at) where deleted_at is not null;

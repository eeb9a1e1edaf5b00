-- cell.db. Times are RFC 3339 text in UTC; JSON columns hold one object. The schema's version is user_version.
create table project (
    id text primary key,
    name text not null,
    region_id text not null,
    pg_major integer not null,
    uid integer not null,
    store_passwords integer not null,
    history_retention_seconds integer not null,
    settings text not null,
    default_endpoint_settings text not null,
    created_at text not null,
    updated_at text not null,
    deleted_at text
) strict;
create index project_by_name on project (name);
create index project_deleted on project (deleted_at) where deleted_at is not null;

create table branch (
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
    restored_as text,
    preserved_of text
) strict;
create index branch_by_parent on branch (parent_id);
create index branch_by_project on branch (project_id);
-- A deleted branch keeps its name, and others may take it.
create unique index branch_by_name on branch (project_id, name) where deleted_at is null;
create index branch_deleted on branch (deleted_at) where deleted_at is not null;

-- A branch names its head and a head its branch: both are checked when the transaction ends.
create table head (
    id text primary key,
    project_id text not null references project (id) on delete cascade,
    branch_id text references branch (id) on delete cascade deferrable initially deferred,
    generation integer not null,
    build_id text not null,
    timeline integer not null,
    origin_head_id text,
    origin_lsn text,
    created_at text not null
) strict;
create index head_by_branch on head (branch_id);
create index head_by_project on head (project_id);

create table endpoint (
    id text primary key,
    project_id text not null references project (id) on delete cascade,
    branch_id text not null references branch (id) on delete cascade,
    name text,
    type text not null,
    min_cu real not null,
    max_cu real not null,
    suspend_timeout_seconds integer not null,
    disabled integer not null,
    pooler_enabled integer not null,
    settings text not null,
    state text not null,
    last_active text,
    started_at text,
    suspended_at text,
    created_at text not null,
    updated_at text not null
) strict;
create index endpoint_by_project on endpoint (project_id);
create index endpoint_by_branch on endpoint (branch_id);

create table role (
    branch_id text not null references branch (id) on delete cascade,
    name text not null,
    verifier text,
    password_sealed blob,
    protected integer not null,
    created_at text not null,
    updated_at text not null,
    primary key (branch_id, name)
) strict, without rowid;

create table database (
    id integer primary key autoincrement,
    branch_id text not null references branch (id) on delete cascade,
    name text not null,
    owner_name text not null,
    created_at text not null,
    updated_at text not null,
    unique (branch_id, name)
) strict;

-- Operations outlive their project: deleting one is an operation too.
create table operation (
    id text primary key,
    project_id text not null,
    branch_id text,
    endpoint_id text,
    action text not null,
    status text not null,
    verb text not null,
    argument text not null,
    step integer not null,
    error text,
    failures_count integer not null,
    created_at text not null,
    updated_at text not null,
    finished_at text,
    ordinal integer not null
) strict;
create index operation_by_project on operation (project_id, created_at desc, ordinal desc);
create index operation_unfinished on operation (project_id, ordinal) where status in ('scheduling', 'running');

create table spare (
    project_id text primary key,
    branch_id text not null,
    head_id text not null,
    build_id text not null,
    uid integer not null,
    role_name text not null,
    database_name text not null,
    verifier text not null,
    password_sealed blob not null,
    created_at text not null
) strict;

-- Directories whose rows are gone and whose files are still being deleted; a uid is free only after its last one.
create table doomed (
    path text primary key,
    uid integer not null,
    created_at text not null
) strict;

create table snapshot (
    id text primary key,
    project_id text not null references project (id) on delete cascade,
    source_branch_id text,
    head_id text not null,
    name text not null,
    lsn text,
    timestamp text,
    manual integer not null,
    full_size integer,
    created_at text not null,
    expires_at text
) strict;
create index snapshot_by_project on snapshot (project_id);

create table backup_schedule (
    branch_id text primary key references branch (id) on delete cascade,
    slots text not null,
    updated_at text not null
) strict;

create table api_key (
    id integer primary key autoincrement,
    name text not null,
    key_hash blob not null unique,
    created_at text not null,
    last_used_at text,
    revoked_at text,
    owner text not null default 'account',
    project_id text
) strict;

create table annotation (
    branch_id text primary key references branch (id) on delete cascade,
    value text not null,
    created_at text not null,
    updated_at text not null
) strict;

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

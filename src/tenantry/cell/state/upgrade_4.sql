-- From version 3 to 4: keys of the organization, and of one project. A key outlives its project and opens nothing then.
alter table api_key add column owner text not null default 'account';
alter table api_key add column project_id text;

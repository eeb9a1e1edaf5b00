-- From version 4 to 5: an endpoint has the pg_settings that its project said when it was made, and no later ones.
update endpoint set settings = json_patch(
    (select json_object('pg_settings', json(json_extract(p.default_endpoint_settings, '$.pg_settings')))
     from project p where p.id = project_id),
    settings
)
where exists (
    select 1 from project p
    where p.id = project_id and json_type(p.default_endpoint_settings, '$.pg_settings') = 'object'
);

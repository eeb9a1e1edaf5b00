// A project's life with Neon's newest SDK, unmodified: its ergonomic client, and two calls of the generated layer.
// Prints one JSON document of what was seen. Arguments: base URL, API key, path of node_modules' parent, and
// "connect" to make a project, print its connection string and leave it.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [baseUrl, apiKey, home, connect] = process.argv.slice(2);
const { createNeonClient, isNeonError, raw } = await import(
  pathToFileURL(`${home}/node_modules/@neon/sdk/dist/index.js`)
);
const { Client } = createRequire(`${home}/`)("pg");
// Every change is waited for, which a client does by its operations.
const quick = { pollIntervalMs: 25, timeoutMs: 60_000 };
const neon = createNeonClient({ apiKey, baseUrl, throwOnError: true, waitForReadiness: true, wait: quick });
const seen = {};

if (connect) {
  console.log(JSON.stringify(await neon.projects.createAndConnect({ name: "ACME Corp" })));
  process.exit();
}

async function sql(connectionString, text) {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    return (await client.query({ text, rowMode: "array" })).rows?.map(([first]) => first);
  } finally {
    await client.end();
  }
}

async function refusal(call) {
  const { data, error } = await call({ throwOnError: false });
  if (!isNeonError(error)) throw new Error(`no error but ${JSON.stringify(data)}`);
  return { kind: error.kind, status: error.status, code: error.code, id: error.requestId, message: error.message };
}

const named = (list) => list.map(({ name }) => name).sort();

// Projects
const first = await neon.projects.createAndConnect({ name: "ACME Corp", region_id: "aws-us-east-1" });
const projectId = first.project.id;
seen.project = [first.project.name, first.project.region_id];
await sql(first.connectionString, "create table tasks (id int); insert into tasks values (1)");
seen.got = (await neon.projects.get({ projectId })).name;
seen.listed = (await neon.projects.list().all()).some(({ id }) => id === projectId);
seen.paged = 0;
const others = [];
for (const name of ["Globex A", "Globex B"]) others.push(await neon.projects.create({ name }));
for await (const project of neon.projects.list({ search: "globex", limit: 1 })) seen.paged += project.name.length > 0;
seen.renamed = (await neon.projects.update({ projectId, name: "ACME Ltd" })).name;
for (const { id } of others) await neon.projects.delete({ projectId: id });
seen.left = (await neon.projects.list({ search: "globex" }).all()).length;
seen.recovered = (await neon.projects.recover({ projectId: others[0].id })).name;
await neon.projects.delete({ projectId: others[0].id });

// Branches
const main = await neon.branches.getDefault({ projectId });
seen.main = main.name;
const dev = await neon.branches.createAndConnect({ projectId, name: "dev", parentId: main.id, pooled: false });
const at = { projectId, branchId: dev.branch.id };
seen.dev = [dev.branch.parent_id === main.id, dev.endpoint.type, await sql(dev.connectionString, "table tasks")];
await sql(dev.connectionString, "insert into tasks values (2); alter table tasks add title text");
seen.diff = (await neon.branches.compareSchema({ ...at, databaseName: "neondb" })).diff;
seen.reset = (await neon.branches.resetFromParent(at)).id === dev.branch.id;
seen.afterReset = await sql(dev.connectionString, "table tasks");
seen.branch = (await neon.branches.update({ ...at, name: "dev2", protected: true })).protected;
await neon.branches.update({ ...at, protected: false });
seen.default = (await neon.branches.setDefault(at)).default;
await neon.branches.setDefault({ projectId, branchId: main.id });
const bare = await neon.branches.create({ projectId, name: "bare", parent_id: main.id, noCompute: true });
seen.bare = (await neon.postgres.endpoints.listByBranch({ projectId, branchId: bare.id })).length;
seen.branches = named(await neon.branches.list({ projectId }).all());

// Roles and databases
const role = await neon.postgres.roles.create({ ...at, name: "alice" });
const alice = { ...at, roleName: "alice" };
seen.role = (await neon.postgres.roles.get(alice)).name;
seen.password = (await neon.postgres.roles.password(alice)) === role.password;
seen.otherPassword = (await neon.postgres.roles.resetPassword(alice)).password !== role.password;
seen.roles = named(await neon.postgres.roles.list(at));
seen.owner = (await neon.postgres.databases.create({ ...at, name: "crm", owner_name: "alice" })).owner_name;
seen.database = (await neon.postgres.databases.update({ ...at, databaseName: "crm", name: "sales" })).name;
seen.databases = named(await neon.postgres.databases.list(at));
const target = { ...at, databaseName: "sales", roleName: "alice" };
seen.uri = await neon.postgres.connectionString({ ...target, pooled: false });
seen.uriPooled = await neon.postgres.connectionString(target);
const who = "select current_user || ' in ' || current_database()";
seen.who = [await sql(seen.uri, who), await sql(seen.uriPooled, who)];
seen.ambiguous = await refusal((options) => neon.postgres.connectionString({ ...at, databaseName: "sales" }, options));
await neon.postgres.databases.delete({ ...at, databaseName: "sales" });
await neon.postgres.roles.delete(alice);
seen.gone = await refusal((options) => neon.postgres.roles.get(alice, options));
seen.sole = await sql(await neon.postgres.connectionString({ projectId }), who);

// Endpoints
const endpoint = await neon.postgres.endpoints.create({ projectId, branch_id: bare.id, type: "read_write" });
const it = { projectId, endpointId: endpoint.id };
const limits = { autoscaling_limit_min_cu: 0.25, autoscaling_limit_max_cu: 1, suspend_timeout_seconds: 120 };
seen.endpoint = (await neon.postgres.endpoints.update({ ...it, ...limits })).suspend_timeout_seconds;
await neon.postgres.endpoints.start(it);
seen.started = (await neon.postgres.endpoints.get(it)).current_state;
await neon.postgres.endpoints.restart(it);
await neon.postgres.endpoints.suspend(it);
seen.suspended = (await neon.postgres.endpoints.get(it)).current_state;
seen.endpoints = (await neon.postgres.endpoints.list({ projectId })).length;
await neon.postgres.endpoints.delete(it);

// Snapshots
const snapshot = await neon.snapshots.create({ projectId, branchId: main.id, name: "before" });
await sql(first.connectionString, "insert into tasks values (3)");
seen.snapshots = named(await neon.snapshots.list({ projectId }));
const restored = await neon.snapshots.restore({ projectId, snapshotId: snapshot.id, name: "restored" });
const there = await neon.postgres.connectionString({ projectId, branchId: restored.id });
seen.restored = await sql(there, "table tasks");
// Looked at before it takes the branch's place, and its endpoint.
await neon.snapshots.restore({
  projectId,
  snapshotId: snapshot.id,
  targetBranchId: main.id,
  preview: async ({ id }) => {
    seen.preview = await sql(await neon.postgres.connectionString({ projectId, branchId: id }), "table tasks");
    return true;
  },
});
seen.committed = await sql(first.connectionString, "table tasks");
await neon.snapshots.setSchedule({ projectId, branchId: main.id, schedule: [{ frequency: "daily", hour: 3 }] });
seen.schedule = (await neon.snapshots.getSchedule({ projectId, branchId: main.id })).schedule[0].frequency;
await neon.snapshots.delete({ projectId, snapshotId: snapshot.id });

// Operations: one is waited for by hand, after a call of the generated layer.
const made = await raw.createProjectBranch({
  client: neon.client, path: { project_id: projectId }, body: { branch: { name: "raw" } }, throwOnError: true,
});
await neon.operations.waitFor({ operations: made.operations }, { pollIntervalMs: 25, timeoutMs: 60_000 });
seen.operation = (await neon.operations.get({ projectId, operationId: made.operations[0].id })).status;
seen.operations = new Set((await neon.operations.list({ projectId }).all()).map(({ action }) => action)).size;
const path = { project_id: projectId, branch_id: main.id };
const schema = await raw.getProjectBranchSchema({ client: neon.client, path, query: { db_name: "neondb" } });
seen.schema = schema.data.sql;

// The account, and what is refused
const key = await neon.apiKeys.create({ keyName: "ci" });
seen.key = (await createNeonClient({ apiKey: key.key, baseUrl }).projects.get({ projectId })).data.name;
seen.revoked = (await neon.apiKeys.revoke({ keyId: key.id })).revoked;
seen.keys = (await neon.apiKeys.list()).some(({ id }) => id === key.id);
seen.regions = (await neon.regions.list()).map(({ region_id }) => region_id);
seen.me = (await neon.user.me()).login;
const organizations = await neon.user.organizations();
seen.organization = organizations.map(({ id }) => id).join() === first.project.org_id;
const now = Date.now();
const range = { from: new Date(now - 7200_000).toISOString(), to: new Date(now).toISOString(), granularity: "hourly" };
const consumed = await neon.consumption.perProject({ ...range, project_ids: [projectId] }).all();
seen.consumed = consumed.map(({ project_id }) => project_id).join() === projectId;
seen.notThere = await refusal((options) => neon.projects.get({ projectId: "not-there-1" }, options));
seen.badName = await refusal((options) => neon.projects.create({ name: "" }, options));
seen.revokedKey = await refusal((options) => createNeonClient({ apiKey: key.key, baseUrl }).user.me(options));
seen.notHere = await refusal((options) => neon.auth.get({ projectId, branchId: main.id }, options));
seen.taken = await refusal((options) => neon.branches.create({ projectId, name: "main" }, options));
for (const branchId of [made.branch.id, restored.id, bare.id, dev.branch.id]) {
  await neon.branches.delete({ projectId, branchId });
}
seen.deleted = (await neon.projects.delete({ projectId })).id === projectId;
console.log(JSON.stringify(seen));

// What Neon's JavaScript actions for branches ask of the API, call by call, in our words: create-branch-action 6.1 and
// schema-diff-action 1.0. Like them it takes INPUT_* from the environment and appends to the file GITHUB_OUTPUT.
// Arguments: name of the action, path of node_modules' parent.
import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createRequire } from "node:module";

const [action, home] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const { createApiClient, EndpointType } = require("@neondatabase/api-client");
const { createPatch } = require("diff");

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim() || undefined;

function output(name, value) {
  const end = randomUUID();
  appendFileSync(process.env.GITHUB_OUTPUT, `${name}<<${end}\n${value}\n${end}\n`);
}

const projectId = input("project_id");
const database = input("database");
const api = createApiClient({
  apiKey: input("api_key"),
  baseURL: input("api_host"),
  timeout: 60_000,
  headers: { "User-Agent": `neon-${action} v0` },
});
const means = (asked) => (branch) => branch.name === asked || branch.id === asked;

async function branchOf(asked) {
  const { data } = await api.listProjectBranches({ projectId, search: asked, limit: 10000 });
  return data.branches.find(means(asked));
}

async function createBranch() {
  let branch = input("branch_name") && (await branchOf(input("branch_name")));
  output("created", !branch);
  if (!branch) {
    const parent = input("parent_branch") && (await branchOf(input("parent_branch")));
    const { data } = await api.createProjectBranch(projectId, {
      endpoints: [{ type: EndpointType.ReadWrite, suspend_timeout_seconds: Number(input("suspend_timeout")) }],
      branch: {
        name: input("branch_name"),
        parent_id: parent?.id,
        init_source: input("branch_type") === "schema-only" ? "schema-only" : undefined,
        expires_at: input("expires_at"),
      },
      annotation_value: {
        "github-commit-repo": process.env.GITHUB_REPOSITORY,
        "github-commit-author-login": process.env.GITHUB_ACTOR,
      },
    });
    branch = data.branch;
  }
  const target = [projectId, branch.id];
  const role = input("role");
  const endpoints = (await api.listProjectBranchEndpoints(...target)).data.endpoints;
  const { id, host } = endpoints.find(({ type }) => type === EndpointType.ReadWrite);
  await api.getProjectBranchDatabase(...target, database);
  await api.getProjectBranchRole(...target, role);
  const { password } = (await api.getProjectBranchRolePassword(...target, role)).data;
  const pooled = host.replace(id, `${id}-pooler`);
  const url = (at) => `postgresql://${role}:${encodeURIComponent(password)}@${at}/${database}?sslmode=${input("ssl")}`;
  output("db_url", url(host));
  output("db_url_pooled", url(pooled));
  output("db_host", host);
  output("db_host_pooled", pooled);
  output("password", password);
  output("branch_id", branch.id);
}

async function schemaDiff() {
  const { branches } = (await api.listProjectBranches({ projectId })).data;
  const compare = branches.find(means(input("compare_branch")));
  const base = branches.find(means(input("base_branch") ?? compare.parent_id));
  const timestamp = input("timestamp") && new Date(input("timestamp")).toISOString();
  const schema = async (branch, moment) =>
    (await api.getProjectBranchSchema({ projectId, branchId: branch.id, db_name: database, ...moment })).data.sql;
  const now = await schema(compare, { lsn: timestamp ? undefined : input("lsn"), timestamp });
  const before = await schema(base, {});
  const file = `${database}-schema.sql`;
  const names = [base, compare].map(({ name }) => `Branch ${name}`);
  output("diff", now === before ? "" : createPatch(file, before, now, ...names));
}

await { "create-branch-action": createBranch, "schema-diff-action": schemaDiff }[action]();

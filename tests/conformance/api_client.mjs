// The guide's story with Neon's own JavaScript client, unmodified: create, list, connection URI, change, delete.
// Prints one JSON document. Arguments: base URL, API key, path of node_modules' parent.
import { createRequire } from "node:module";

const [baseURL, apiKey, home] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const { createApiClient, EndpointType } = require("@neondatabase/api-client");
const old = require("@neondatabase/api-client/package.json").version.startsWith("1.");
const api = createApiClient({ apiKey, baseURL });
const seen = {};

process.on("uncaughtException", (error) => {
  console.error(error.stack, error.response?.status, error.config?.method, error.config?.url, error.response?.data);
  process.exit(1);
});

async function finished(projectId, operations) {
  for (const { id } of operations) {
    for (let tries = 0; ; tries++) {
      const { data } = await api.getProjectOperation(projectId, id);
      if (data.operation.status === "finished") break;
      if (tries > 600) throw new Error(`operation ${id} is still ${data.operation.status}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

async function status(promise) {
  try {
    return (await promise).status;
  } catch (error) {
    return { status: error.response.status, ...error.response.data };
  }
}

const created = await api.createProject({ project: { name: "ACME Corp", region_id: "aws-us-east-1" } });
seen.createdStatus = created.status;
const { project, branch, endpoints, operations, roles, databases } = created.data;
Object.assign(seen, { project, branch, endpoint: endpoints[0] });
await finished(project.id, operations);

seen.listed = (await api.listProjects({ limit: 100 })).data.projects.map(({ name }) => name);
seen.found = (await api.listProjects({ search: "acme" })).data.projects.length;
seen.shared = (await api.listSharedProjects({})).data.projects.length;
seen.uri = (
  await api.getConnectionUri({ projectId: project.id, database_name: databases[0].name, role_name: roles[0].name })
).data.uri;

const target = [project.id, branch.id];
seen.branches = (await api.listProjectBranches(old ? project.id : { projectId: project.id })).data.branches.length;
seen.endpoints = (await api.listProjectEndpoints(project.id)).data.endpoints.length;
seen.databases = (await api.listProjectBranchDatabases(...target)).data.databases.map(({ name }) => name);
seen.roles = (await api.listProjectBranchRoles(...target)).data.roles.map(({ name }) => name);
seen.password = (await api.getProjectBranchRolePassword(...target, roles[0].name)).data.password;
seen.rw = EndpointType.ReadWrite;

const role = await api.createProjectBranchRole(...target, { role: { name: "alice" } });
await finished(project.id, role.data.operations);
const database = await api.createProjectBranchDatabase(...target, { database: { name: "crm", owner_name: "alice" } });
await finished(project.id, database.data.operations);
seen.crm = (await api.getProjectBranchDatabase(...target, "crm")).data.database.owner_name;
await finished(project.id, (await api.deleteProjectBranchDatabase(...target, "crm")).data.operations);
await finished(project.id, (await api.deleteProjectBranchRole(...target, "alice")).data.operations);
seen.goneRole = await status(api.deleteProjectBranchRole(...target, "alice"));

const suspended = await api.suspendProjectEndpoint(project.id, endpoints[0].id);
await finished(project.id, suspended.data.operations);
seen.suspended = (await api.getProjectEndpoint(project.id, endpoints[0].id)).data.endpoint.current_state;
const renamed = await api.updateProject(project.id, { project: { name: "ACME Ltd" } });
seen.renamed = renamed.data.project.name;

seen.me = (await api.getCurrentUserInfo()).data;
seen.organizations = (await api.getCurrentUserOrganizations()).data.organizations;
// 1.x has no call for these two.
seen.regions = old ? 1 : (await api.getActiveRegions()).data.regions.length;
seen.notHere = old ? { status: 501, code: "", message: "", request_id: "" } : await status(api.getNeonAuth(...target));
seen.notThere = await status(api.getProject("not-there-1"));
seen.badName = await status(api.createProject({ project: { name: "" } }));
seen.wrongKey = await status(createApiClient({ apiKey: "wrong", baseURL }).getCurrentUserInfo());
seen.deleted = await status(api.deleteProject(project.id));
seen.gone = await status(api.getProject(project.id));
console.log(JSON.stringify(seen));

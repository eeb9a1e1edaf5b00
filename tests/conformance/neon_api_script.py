"""The story with ``neon-api`` from PyPI, unmodified. Arguments: base URL, API key. Prints one JSON document.

Its calls build dataclasses of an older contract, which fail where a field is missing or a word unknown.
"""

import json
import sys
import time

from neon_api import NeonAPI
from neon_api.exceptions import NeonAPIError

base_url, api_key = sys.argv[1:]
neon = NeonAPI(api_key, base_url=base_url.rstrip("/") + "/")
seen = {}


def finished(project_id, operations):
    for operation in operations:
        while neon.operation(project_id, operation.id).operation.status.value != "finished":
            time.sleep(0.05)


seen["me"] = neon.me().billing_account.email
project = neon.project_create(project={"name": "ACME Corp", "region_id": "aws-us-east-1"}).project
seen["name"] = neon.project(project.id).project.name
seen["listed"] = [item.name for item in neon.projects().projects]
seen["shared"] = len(neon.projects(shared=True).projects)
branch = neon.branches(project.id).branches[0]
finished(project.id, neon.operations(project.id).operations)
endpoint = neon.endpoints(project.id).endpoints[0]
seen["endpoint"] = neon.endpoint(project.id, endpoint.id).endpoint.host
seen["uri"] = neon.connection_uri(project.id, "neondb", "neondb_owner").uri
seen["pooled"] = neon.connection_uri(project.id, "neondb", "neondb_owner", pooled=True).uri
seen["password"] = neon.role_password_reveal(project.id, branch.id, "neondb_owner").password
role = neon.role_create(project.id, branch.id, "alice")
finished(project.id, role.operations)
seen["reset"] = neon.role_password_reset(project.id, branch.id, "alice").role.password != role.role.password
neon.database_create(project.id, branch.id, database={"name": "crm", "owner_name": "alice"})
finished(project.id, neon.operations(project.id).operations)
seen["databases"] = sorted(database.name for database in neon.databases(project.id, branch.id).databases)
seen["dropped"] = neon.database_delete(project.id, branch.id, "crm").database.name
finished(project.id, neon.operations(project.id).operations)
seen["role"] = neon.role(project.id, branch.id, "alice").role.name
seen["role_deleted"] = neon.role_delete(project.id, branch.id, "alice").role.name
seen["started"] = neon.endpoint_start(project.id, endpoint.id).endpoint.id
seen["suspended"] = neon.endpoint_suspend(project.id, endpoint.id).endpoint.id
seen["renamed"] = neon.project_update(project.id, project={"name": "ACME Ltd"}).project.name
seen["permissions"] = neon.project_permissions(project.id).project_permissions
key = neon.api_key_create(key_name="ci")
seen["key"] = key.name
seen["keys"] = len(neon.api_keys())
seen["revoked"] = neon.api_key_revoke(str(key.id)).revoked
try:
    neon.project_permissions_revoke(project.id, id="x")
except NeonAPIError as error:
    seen["refused"] = json.loads(str(error))["code"]
seen["deleted"] = neon.project_delete(project.id).project.id == project.id
print(json.dumps(seen))

// Neon's serverless driver over HTTP and WebSockets. Prints one JSON document of what was seen.
// Arguments: connection URI, HOST:PORT of the HTTP port, whether TLS is spoken there, path of node_modules' parent.
import { createRequire } from "node:module";

const [uri, web, tls, home] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const { neon, neonConfig, Client, Pool } = require("@neondatabase/serverless");

const secure = tls === "tls";
neonConfig.fetchEndpoint = () => `${secure ? "https" : "http"}://${web}/sql`;
neonConfig.wsProxy = () => `${web}/v2`;
neonConfig.useSecureWebSocket = secure;
neonConfig.webSocketConstructor = require("ws");

const failure = async (promise) => {
  try {
    await promise;
  } catch (error) {
    const { name, message, code, severity, detail, hint, position, constraint, table, column, schema } = error;
    return { name, message, code, severity, detail, hint, position, constraint, table, column, schema };
  }
  throw new Error("nothing failed");
};

async function http() {
  const sql = neon(uri);
  const seen = {};
  const n = 7;
  seen.row = (await sql`select current_user as role, current_database() as database, ${n}::int as n`)[0];
  await sql`create table notes (id int primary key, body text, tags text[], born timestamptz default now())`;
  const tags = ["a", 'b"c', "d,e", "f\\g", "{h}", "ü", "line\nbreak"];
  await sql`insert into notes values (${1}, ${"first"}, ${tags}), (${2}, ${null}, ${[]})`;
  const notes = await sql`select id, body, tags, born from notes order by id`;
  seen.tags = JSON.stringify(notes[0].tags) === JSON.stringify(tags);
  seen.empty = notes[1].tags;
  seen.nothing = notes[1].body;
  seen.date = notes[0].born instanceof Date && Math.abs(Date.now() - notes[0].born) < 3600e3;
  seen.types = (
    await sql`select 1::int2 as i2, 9007199254740993::int8 as i8, 1.50::numeric as num, 1.5::float8 as f8,
      'NaN'::float8 as nan, true as yes, '{"a":[1,{"b":null}]}'::jsonb as js, '[1,2]'::json as jn, '\\x00ff'::bytea as bin,
      array[1,null,3] as ints, array[[1,2],[3,4]] as matrix, array[true,false] as bools,
      array['{"x":1}'::jsonb] as jsons, '10.0.0.1'::inet as ip, '1 day'::interval as day, 'x'::char(3) as pad,
      '2020-02-03'::date as date, null::int as nil, '(1,2)'::point as point, '\\n\\t"' as odd`
  )[0];
  seen.types.bin = [...seen.types.bin];
  seen.types.date = seen.types.date.toISOString().slice(0, 4);
  seen.types.nan = String(seen.types.nan);
  seen.bytes = (await sql`select ${Buffer.from([0, 1, 255])}::bytea as b`)[0].b.toString("hex");
  seen.json = (await sql`select ${{ a: ["ü", 1] }}::jsonb as j`)[0].j;
  seen.arrays = await sql.query("select $1::int + 1, $2::text", [1, "x"], { arrayMode: true });
  const full = await sql.query("select id from notes order by id", [], { fullResults: true });
  seen.full = { command: full.command, rowCount: full.rowCount, rows: full.rows, rowAsArray: full.rowAsArray };
  seen.field = full.fields[0];
  const changed = await sql.query("update notes set body = 'x'", [], { fullResults: true });
  seen.changed = { command: changed.command, rowCount: changed.rowCount, rows: changed.rows, fields: changed.fields };
  const made = await sql.query("create table t2 (n int check (n < 10))", [], { fullResults: true });
  seen.made = { command: made.command, rowCount: made.rowCount };
  const big = "ä\"\\\n".repeat(2 ** 20);
  seen.big = (await sql`select ${big}::text as big`)[0].big === big;
  seen.many = (await sql`select generate_series(1, 20000) as n`).reduce((sum, { n }) => sum + n, 0);
  seen.parallel = (await Promise.all([...Array(40).keys()].map((n) => sql`select ${n}::int as n`))).map(
    ([{ n }]) => n,
  );

  // Nothing of one request is left for the next.
  await sql`set work_mem = '7MB'`;
  await sql`set role pg_monitor`.catch(() => null);
  await sql`create temp table left_over (n int)`;
  await sql`begin`;
  await sql`select pg_advisory_lock(1)`;
  const after = await sql`select current_setting('work_mem') as work_mem, to_regclass('left_over') as left_over,
    current_user as role, (select count(*)::int from pg_locks where locktype = 'advisory') as locks`;
  seen.clean = { ...after[0], work_mem: after[0].work_mem === "7MB" };

  seen.batch = await sql.transaction([sql`select ${1}::int as a`, sql`insert into t2 values (${2}) returning n`]);
  const level = (txn) => [
    txn`select current_setting('transaction_isolation') as level, current_setting('transaction_read_only') as read_only,
      current_setting('transaction_deferrable') as deferrable`,
  ];
  seen.levels = {};
  for (const isolationLevel of ["ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"])
    seen.levels[isolationLevel] = (await sql.transaction(level, { isolationLevel }))[0][0];
  const strict = { isolationLevel: "Serializable", readOnly: true, deferrable: true, fullResults: true };
  seen.strict = (await sql.transaction(level, strict))[0].rows[0];
  seen.mixed = await sql.transaction([sql.query("select 1 as n", [], { arrayMode: true }), sql`select 2 as n`]);
  seen.readOnly = await failure(sql.transaction([sql`insert into t2 values (3)`], { readOnly: true }));
  seen.undone = await failure(sql.transaction([sql`insert into t2 values (4)`, sql`insert into t2 values (${50})`]));
  seen.left = (await sql`select array_agg(n order by n) as ns from t2`)[0].ns;
  seen.wrongLevel = await failure(sql.transaction(level, { isolationLevel: "Whatever" }));

  seen.syntax = await failure(sql`select * fromm notes`);
  seen.unique = await failure(sql`insert into notes (id) values (1)`);
  seen.several = await failure(sql.query("select 1; select 2"));
  seen.raised = await failure(
    sql`do $$ begin raise exception 'oh' using detail = 'd', hint = 'h', errcode = 'ZZ001'; end $$`,
  );
  seen.password = await failure(neon(uri.replace(/:[^:@/]*@/, ":wrong@"))`select 1`);
  seen.database = await failure(neon(uri.replace("/neondb?", "/nosuch?"))`select 1`);
  const raw = { types: { getTypeParser: () => (text) => `<${text}>` } };
  seen.raw = await sql.query("select 1 as n, array[1,2] as ns", [], raw);
  const controller = new AbortController();
  const slow = failure(sql.query("select pg_sleep(60)", [], { fetchOptions: { signal: controller.signal } }));
  const running = () => sql`select count(*)::int as n from pg_stat_activity where query = 'select pg_sleep(60)'
    and state = 'active'`;
  while (!(await running())[0].n);
  controller.abort();
  seen.aborted = (await slow).name;
  while ((await running())[0].n);
  await sql`drop table notes, t2`;
  return seen;
}

async function websocket(pipelineConnect) {
  neonConfig.pipelineConnect = pipelineConnect;
  const seen = {};
  const client = new Client(uri);
  const heard = new Promise((resolve) => client.on("notification", ({ payload }) => resolve(payload)));
  await client.connect();
  seen.row = (await client.query("select current_user as role, current_database() as database, $1::int as n", [7])).rows[0];
  await client.query("begin");
  await client.query("create table from_websocket (n int)");
  await client.query("insert into from_websocket values (1), (2)");
  await client.query("rollback");
  seen.undone = (await client.query("select to_regclass('from_websocket') as it")).rows[0].it;
  seen.error = await failure(client.query("select 1/0"));
  const big = "ä\"\\\n".repeat(2 ** 20);
  seen.big = (await client.query("select $1::text as big", [big])).rows[0].big === big;
  seen.many = (await client.query("select generate_series(1, 100000) as n")).rowCount;
  await client.query("listen news");
  await client.query("notify news, 'hello'");
  seen.heard = await heard;
  await client.end();

  const pool = new Pool({ connectionString: uri, max: 5 });
  seen.pool = await Promise.all(
    [...Array(20).keys()].map(async (n) => (await pool.query("select $1::int as n", [n])).rows[0].n),
  );
  const borrowed = await pool.connect();
  seen.borrowed = (await borrowed.query("select 1 as one")).rows[0].one;
  borrowed.release();
  await pool.end();

  const stranger = new Client(uri.replace(/:[^:@/]*@/, ":wrong@"));
  stranger.on("error", () => null);
  seen.password = await failure(stranger.connect().then(() => stranger.query("select 1")));
  return seen;
}

neonConfig.poolQueryViaFetch = false;
console.log(
  JSON.stringify({ http: await http(), pipelined: await websocket("password"), patient: await websocket(false) }),
);
process.exit(0);

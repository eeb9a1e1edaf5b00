// node-postgres or postgres.js through the front door. Prints one JSON document of what was seen.
// Arguments: driver (pg or postgres), connection URI, path of node_modules' parent, file of the authority or nothing.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const [driver, uri, home, authority] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const big = "x".repeat(3 * 2 ** 20); // Larger than any buffer on the way.
const asleep = "select count(*)::int as n from pg_stat_activity where state = 'active' and query ~ '^select pg_sleep'";

async function nodePostgres() {
  const { Client, Query } = require("pg");
  const copy = require("pg-copy-streams");
  // node-postgres lets the sslmode of a connection string win over its own option.
  const plain = { connectionString: uri.replace(/sslmode=[^&]*&?/, "") };
  const tls = () => ({ ...plain, ssl: { ca: readFileSync(authority, "utf8") }, enableChannelBinding: true });
  const client = new Client(authority ? tls() : plain);
  const seen = {};
  client.connection.on("authenticationSASL", ({ mechanisms }) => (seen.mechanisms = mechanisms));
  await client.connect();
  seen.encrypted = client.connection.stream.encrypted === true;
  seen.verified = client.connection.stream.authorized === true;
  const who = "select current_user as role, current_database() as database, $1::int as n";
  seen.row = (await client.query(who, [7])).rows[0];
  const prepared = { name: "double", text: "select $1::int * 2 as twice" };
  seen.twice = [];
  for (const n of [1, 2, 3]) seen.twice.push((await client.query({ ...prepared, values: [n] })).rows[0].twice);
  seen.big = (await client.query("select $1::text as big", [big])).rows[0].big === big;
  seen.error = await client.query("select 1/0").catch(({ code }) => code);

  await client.query("begin; create table from_driver (n int)");
  await pipeline(["1\n2\n", "3\n"], client.query(copy.from("copy from_driver from stdin")));
  await client.query("commit");
  const chunks = [];
  for await (const chunk of client.query(copy.to("copy from_driver to stdout"))) chunks.push(chunk);
  seen.copied = Buffer.concat(chunks).toString();
  await client.query("drop table from_driver");

  const heard = new Promise((resolve) => client.once("notification", ({ payload }) => resolve(payload)));
  await client.query("listen news");
  await client.query("notify news, 'hello'");
  seen.heard = await heard;

  const other = new Client(plain);
  await other.connect();
  const query = new Query("select pg_sleep(60)");
  const ended = new Promise((resolve) => query.on("error", ({ code }) => resolve(code)));
  client.query(query);
  while (!(await other.query(asleep)).rows[0].n);
  // It cannot ask for TLS on the connection on which it cancels.
  new Client(plain).cancel(client, query);
  seen.cancelled = await ended;
  seen.after = (await client.query("select 1 as one")).rows[0].one;
  await other.end();
  await client.end();
  return seen;
}

async function postgresJs() {
  const postgres = require("postgres");
  const ssl = authority && { ssl: { ca: readFileSync(authority, "utf8") } };
  const sql = postgres(uri, { max: 2, ...ssl });
  const seen = {};
  [seen.row] = await sql`select current_user as role, current_database() as database, ${7}::int as n`;
  seen.twice = [];
  for (const n of [1, 2, 3]) seen.twice.push((await sql`select ${n}::int * 2 as twice`)[0].twice);
  seen.big = (await sql`select ${big}::text as big`)[0].big === big;
  seen.error = await sql`select 1/0`.catch(({ code }) => code);

  await sql.begin(async (tx) => {
    await tx`create table from_driver (n int)`;
    await tx`insert into from_driver ${tx([1, 2, 3].map((n) => ({ n })))}`;
  });
  seen.rows = [];
  for await (const rows of sql`select n from from_driver order by n`.cursor(1)) seen.rows.push(rows[0].n);
  await sql`truncate from_driver`;
  await pipeline(["1\n2\n", "3\n"], await sql`copy from_driver from stdin`.writable());
  const chunks = [];
  for await (const chunk of await sql`copy from_driver to stdout`.readable()) chunks.push(chunk);
  seen.copied = Buffer.concat(chunks).toString();
  await sql`drop table from_driver`;

  seen.heard = await new Promise((resolve) => sql.listen("news", resolve).then(() => sql.notify("news", "hello")));

  const sleeping = sql`select pg_sleep(60)`;
  const ended = sleeping.catch(({ code }) => code);
  while (!(await sql.unsafe(asleep))[0].n);
  sleeping.cancel();
  seen.cancelled = await ended;
  seen.after = (await sql`select 1 as one`)[0].one;
  await sql.end();
  return seen;
}

console.log(JSON.stringify(await { pg: nodePostgres, postgres: postgresJs }[driver]()));

// Prisma with the schema engine that its package brings, which speaks to Postgres through node-postgres.
import pg from 'pg'
import { PrismaPg } from '@prisma/adapter-pg'

class Pool extends pg.Pool {
  async query(...all) {
    const result = await super.query(...all)
    // The adapter knows text and not the catalogs' type "name", which the engine asks for.
    for (const field of result.fields ?? []) if (field.dataTypeID === 19) field.dataTypeID = 25
    return result
  }
}

export default {
  experimental: { adapter: true },
  engine: 'js',
  schema: process.env.PRISMA_SCHEMA,
  migrations: { path: process.env.PRISMA_MIGRATIONS },
  adapter: async () => new PrismaPg(new Pool({ connectionString: process.env.DATABASE_URL })),
}

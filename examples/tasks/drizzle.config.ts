import { defineConfig } from 'drizzle-kit';

export default defineConfig({
  dialect: 'postgresql',
  schema: './schema.ts',
  out: './drizzle',
  dbCredentials: {
    // Only `drizzle-kit migrate` connects; `generate` compares files.
    url: process.env.DATABASE_URL ?? '',
  },
});

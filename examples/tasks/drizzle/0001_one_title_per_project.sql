DROP INDEX "tasks_project_id_idx";--> statement-breakpoint
ALTER TABLE "tasks" ADD COLUMN "due_at" timestamp with time zone;--> statement-breakpoint
CREATE UNIQUE INDEX "tasks_project_id_title_key" ON "tasks" USING btree ("project_id","title");
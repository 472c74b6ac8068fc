-- Spreads a tidemark store over the machines of a Citus cluster, by user.
--
--   tidemark check --store postgres://…/sync                        # makes the tables
--   psql postgres://…/sync -v ON_ERROR_STOP=1 -f deploy/citus.sql   # on the coordinator
--
-- All rows of a user are together on one machine, so every push and pull is
-- the work of one. The table tidemark.version stays on the coordinator: it is
-- read when a server starts. Run it on an empty store, or while no server runs.

BEGIN;
CREATE EXTENSION IF NOT EXISTS citus;
SELECT create_distributed_table('tidemark.logs', 'user_id');
SELECT create_distributed_table('tidemark.batches', 'user_id', colocate_with => 'tidemark.logs');
SELECT create_distributed_table('tidemark.mutations', 'user_id', colocate_with => 'tidemark.logs');
SELECT create_distributed_table('tidemark.records', 'user_id', colocate_with => 'tidemark.logs');
SELECT create_distributed_table('tidemark.gaps', 'user_id', colocate_with => 'tidemark.logs');
COMMIT;

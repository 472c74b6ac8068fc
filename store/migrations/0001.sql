-- Schema of a PostgreSQL store, version 1
--
--   logs       one row a user: what every push compares and sets
--   batches    one row a push: its receipt, and where its mutations are
--   mutations  one row a mutation
--   records    what else the server must remember: tokens, devices
--   gaps       the gaps of those who have no log: erased users, fences
--
--   user_id ──┬── logs       head, revision, bounds
--             ├── batches    last ◄────┐  each follows the head that the one
--             │              previous ─┘  before it made
--             ├── mutations  at: previous < first ≤ at ≤ last
--             └── records    kind, name
--
-- Every table has user_id first in its primary key, every statement of a push or
-- a pull names one user, and nothing is shared between users: no sequence, no
-- foreign key, no lock. So the tables can be spread by user_id over as many
-- machines as it takes. Nothing here is special to PostgreSQL: no extension, no
-- jsonb, no trigger.
--
-- user_id, client and key are bytes as they came ('alice' as a literal is that
-- user; encode(user_id, 'escape') is readable). Data is text, not json: it must
-- come back byte for byte, and engines that speak PostgreSQL keep json as jsonb.
-- Read a member with data::json->>'title'. Texts that are compared are so by
-- their bytes, whatever the locale of the database is or becomes.
--
-- Times are Unix milliseconds; -1 is "before the first".

CREATE TABLE tidemark.logs (
    user_id  bytea    NOT NULL,
    head     bigint   NOT NULL, -- of the newest mutation, or -1
    revision bigint   NOT NULL, -- grows with each change but an append: pruning, bounds, erasure
    pruned   bigint   NOT NULL, -- bounds: mutlog.Bounds
    horizon  bigint   NOT NULL,
    gaps     bigint[] NOT NULL, -- after, until, after, until, …; what stands up to a gap from -1 is being erased
    PRIMARY KEY (user_id)
);

CREATE TABLE tidemark.batches (
    user_id   bytea   NOT NULL,
    last      bigint  NOT NULL, -- the head that it made
    first     bigint  NOT NULL,
    previous  bigint  NOT NULL, -- the head that it followed
    base      bigint  NOT NULL, -- the cursor that it was pushed on; previous, unless it was merged
    client    bytea   NOT NULL, -- x-client-id, or empty
    key       bytea,            -- Idempotency-Key
    receipt   boolean NOT NULL, -- a repeat of the push finds it
    mutations integer NOT NULL, -- how many
    bytes     bigint  NOT NULL, -- of their data, about
    live      text,             -- what is live after it, by kind: {"NOTE":[resources,bytes]}
    PRIMARY KEY (user_id, last)
);

-- A batch pushed with a key is found by that.
CREATE INDEX batches_by_key ON tidemark.batches (user_id, key) WHERE key IS NOT NULL AND receipt;

-- A batch pushed on a head is the first behind it; merged ones are found by this. So an
-- ordinary push has no part in either index.
CREATE INDEX batches_merged ON tidemark.batches (user_id, base, last) WHERE key IS NULL AND receipt AND base <> previous;

CREATE TABLE tidemark.mutations (
    user_id     bytea   NOT NULL,
    at          bigint  NOT NULL, -- its timestamp
    type        text    NOT NULL,
    resource    text    COLLATE "C" NOT NULL,
    resource_id text    COLLATE "C" NOT NULL,
    assigned    boolean NOT NULL, -- the server chose resource_id
    data        text,             -- as it was sent
    state       text,             -- the resource after it; empty if that is data, NULL if a tombstone
    prev        bigint  NOT NULL, -- the mutation of the resource before it, or -1
    born        bigint  NOT NULL, -- the mutation that began the resource's present life, or -1
    crc         bigint  NOT NULL, -- CRC-32C of user_id and all of the above
    PRIMARY KEY (user_id, at)
);

-- The newest mutation of a resource, as of any time.
CREATE INDEX mutations_by_resource ON tidemark.mutations (user_id, resource, resource_id, at);

CREATE TABLE tidemark.records (
    user_id bytea NOT NULL, -- the owner
    kind    bytea NOT NULL,
    name    bytea NOT NULL,
    value   bytea NOT NULL,
    PRIMARY KEY (user_id, kind, name)
);

-- (-1, until] is a gap of a log that does not exist: of the erased user whose
-- name has the SHA-256 user_id, or of all, where user_id is empty (a fence).
CREATE TABLE tidemark.gaps (
    user_id bytea  NOT NULL,
    until   bigint NOT NULL,
    PRIMARY KEY (user_id, until)
);

-- The tables of release 0.1.0.
--
-- Until that release, this file may be replaced. Afterwards it must not change: a later release has a
-- file of its own (docs/operations.md, "Upgrade").
--
-- Text is compared by bytes (COLLATE "C"), whatever the collation of the database is. Otherwise, an
-- update of the operating system could change the order of keys and damage their indexes.

CREATE TABLE content (
    content text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    registered_at bigint NOT NULL,
    title text COLLATE "C" NOT NULL,
    price_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    grants bigint NOT NULL,
    certificate_ttl_s bigint NOT NULL,
    receipt_ttl_s bigint,
    successor_content text COLLATE "C",
    successor_version bigint,
    return_points bigint,
    return_upgrade boolean NOT NULL,
    return_buyback_minor bigint,
    return_buyback_currency text COLLATE "C",
    return_collection boolean NOT NULL,
    current boolean NOT NULL,
    media_uri text COLLATE "C",
    media_sha256 text COLLATE "C",
    media_bytes bigint,
    PRIMARY KEY (content, version, revision)
);

CREATE TABLE certificate_record (
    id uuid NOT NULL PRIMARY KEY,
    container uuid,
    "user" text COLLATE "C" NOT NULL,
    content text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    points bigint NOT NULL,
    reference text COLLATE "C",
    purchased_at bigint NOT NULL,
    generation bigint NOT NULL,
    received_at bigint,
    settlement text COLLATE "C",
    provider text COLLATE "C",
    settled_at bigint,
    grants bigint,
    granted bigint NOT NULL,
    ended text COLLATE "C",
    ended_at bigint,
    reinstated boolean NOT NULL,
    token_digest bytea,
    issued_at bigint,
    receipt_due_at bigint,
    expires_at bigint
);

CREATE TABLE certificate (
    id uuid NOT NULL PRIMARY KEY,
    container uuid,
    "user" text COLLATE "C" NOT NULL,
    content text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    points bigint NOT NULL,
    reference text COLLATE "C",
    generation bigint NOT NULL,
    token_digest bytea NOT NULL,
    issued_at bigint NOT NULL,
    receipt_due_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    received_at bigint,
    settlement text COLLATE "C",
    provider text COLLATE "C",
    settled_at bigint,
    grants bigint NOT NULL,
    granted bigint NOT NULL,
    outstanding bigint NOT NULL
);

CREATE TABLE pending_reception (
    id uuid NOT NULL PRIMARY KEY,
    container boolean NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    token_digest bytea,
    due_at bigint
);

CREATE TABLE license (
    id uuid NOT NULL PRIMARY KEY,
    certificate uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    content text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    terminal text COLLATE "C",
    token text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    revocation text COLLATE "C",
    issued_at bigint NOT NULL,
    granted_at bigint
);

CREATE TABLE license_return (
    id uuid NOT NULL PRIMARY KEY,
    license uuid NOT NULL,
    certificate uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    privilege text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    opened_at bigint NOT NULL,
    delete_by bigint NOT NULL,
    closed_at bigint
);

CREATE TABLE collection (
    id uuid NOT NULL PRIMARY KEY,
    license uuid NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    content text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    certificate uuid NOT NULL,
    settlement text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    amount_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    purchased_at bigint NOT NULL,
    granted_at bigint NOT NULL,
    returned_at bigint NOT NULL
);

CREATE TABLE privilege (
    id uuid NOT NULL PRIMARY KEY,
    "user" text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    points bigint,
    certificate uuid,
    amount_minor bigint,
    currency text COLLATE "C"
);

CREATE TABLE payout (
    provider text COLLATE "C" NOT NULL,
    payout text COLLATE "C" NOT NULL,
    license_return uuid NOT NULL,
    state text COLLATE "C" NOT NULL,
    amount_minor bigint,
    currency text COLLATE "C",
    sequence bigint NOT NULL,
    reason text COLLATE "C",
    registered_at bigint NOT NULL,
    cause uuid NOT NULL,
    PRIMARY KEY (provider, payout)
);

CREATE TABLE reference (
    reference text COLLATE "C" NOT NULL,
    sender text COLLATE "C" NOT NULL,
    earlier bigint NOT NULL,
    purchase uuid NOT NULL,
    container boolean NOT NULL,
    PRIMARY KEY (reference, sender, earlier)
);

CREATE TABLE account (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    balance bigint NOT NULL
);

CREATE TABLE entry (
    id uuid NOT NULL PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    delta bigint NOT NULL,
    cause uuid NOT NULL,
    booked_at bigint NOT NULL
);

CREATE TABLE settlement (
    provider text COLLATE "C" NOT NULL,
    provider_reference text COLLATE "C" NOT NULL,
    certificate uuid,
    container uuid,
    reported_certificate uuid,
    reported_container uuid,
    outcome text COLLATE "C" NOT NULL,
    amount_minor bigint,
    currency text COLLATE "C",
    grants bigint,
    refunded_minor bigint NOT NULL,
    registered_at bigint NOT NULL,
    cause uuid NOT NULL,
    PRIMARY KEY (provider, provider_reference)
);

CREATE TABLE refund (
    provider text COLLATE "C" NOT NULL,
    settlement text COLLATE "C" NOT NULL,
    refund text COLLATE "C" NOT NULL,
    certificate uuid,
    container uuid,
    amount_minor bigint,
    currency text COLLATE "C",
    outcome text COLLATE "C" NOT NULL,
    counted_minor bigint,
    unmatched boolean NOT NULL,
    registered_at bigint NOT NULL,
    cause uuid NOT NULL,
    PRIMARY KEY (provider, settlement, refund)
);

CREATE TABLE reinstatement (
    id uuid NOT NULL PRIMARY KEY,
    provider text COLLATE "C" NOT NULL,
    settlement text COLLATE "C" NOT NULL,
    refund text COLLATE "C",
    certificate uuid,
    container uuid,
    registered_at bigint NOT NULL
);

CREATE TABLE unmatched_settlement (
    id uuid NOT NULL PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    settlement text COLLATE "C" NOT NULL,
    refund text COLLATE "C",
    certificate uuid,
    container uuid,
    amount_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    grants bigint,
    reason text COLLATE "C" NOT NULL,
    recorded_at bigint NOT NULL,
    refunded_by text COLLATE "C"
);

CREATE TABLE journal (
    id uuid NOT NULL PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    sender text COLLATE "C",
    digest bytea NOT NULL,
    subject uuid,
    code text COLLATE "C",
    decided_at bigint NOT NULL,
    position bigint NOT NULL,
    outputs bytea NOT NULL,
    changes bytea
);

-- Each transaction draws one number. It numbers its rows from there on, so the step is larger than
-- any batch.
CREATE SEQUENCE journal_position AS bigint INCREMENT BY 65536 MINVALUE 0 START WITH 0 OWNED BY journal.position;

CREATE TABLE mention (
    subject uuid NOT NULL,
    journal uuid NOT NULL,
    PRIMARY KEY (subject, journal)
);

CREATE TABLE signing_key (
    kid text COLLATE "C" NOT NULL PRIMARY KEY,
    recorded_at bigint NOT NULL,
    retired_at bigint
);

CREATE INDEX certificate_container ON certificate (container) WHERE container IS NOT NULL;
CREATE INDEX certificate_record_container
    ON certificate_record (container) WHERE container IS NOT NULL;
CREATE INDEX certificate_record_user ON certificate_record ("user");
CREATE INDEX certificate_record_reference
    ON certificate_record (reference) WHERE reference IS NOT NULL;
CREATE INDEX certificate_expires_at ON certificate (expires_at);
CREATE INDEX pending_reception_due_at ON pending_reception (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX license_certificate ON license (certificate);
CREATE INDEX license_user ON license ("user", id);
CREATE INDEX license_return_license ON license_return (license);
CREATE INDEX license_return_certificate ON license_return (certificate);
CREATE INDEX license_return_delete_by ON license_return (delete_by) WHERE state = 'opened';
CREATE INDEX payout_license_return ON payout (license_return);
CREATE INDEX privilege_certificate ON privilege (certificate) WHERE certificate IS NOT NULL;
CREATE INDEX settlement_provider_reference ON settlement (provider_reference);
CREATE INDEX reinstatement_settlement ON reinstatement (provider, settlement);
CREATE UNIQUE INDEX unmatched_settlement_key
    ON unmatched_settlement
    (provider, settlement, kind, COALESCE(refund, ''), amount_minor, currency, COALESCE(refunded_by, ''));
CREATE INDEX entry_account ON entry (account);
CREATE INDEX journal_subject ON journal (subject) WHERE subject IS NOT NULL;

-- The tables of release 0.1.0, the same as for PostgreSQL.
--
-- Until that release, this file may be replaced. Afterwards it must not change: a later release has a
-- file of its own (docs/operations.md, "Upgrade").

CREATE TABLE content (
    content text NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    registered_at bigint NOT NULL,
    title text NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    grants bigint NOT NULL,
    certificate_ttl_s bigint NOT NULL,
    receipt_ttl_s bigint,
    successor_content text,
    successor_version bigint,
    return_points bigint,
    return_upgrade boolean NOT NULL,
    return_buyback_minor bigint,
    return_buyback_currency text,
    return_collection boolean NOT NULL,
    current boolean NOT NULL,
    media_uri text,
    media_sha256 text,
    media_bytes bigint,
    PRIMARY KEY (content, version, revision)
);

CREATE TABLE certificate_record (
    id uuid_text NOT NULL PRIMARY KEY,
    container uuid_text,
    "user" text NOT NULL,
    content text NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    points bigint NOT NULL,
    reference text,
    purchased_at bigint NOT NULL,
    generation bigint NOT NULL,
    received_at bigint,
    settlement text,
    provider text,
    settled_at bigint,
    grants bigint,
    granted bigint NOT NULL,
    ended text,
    ended_at bigint,
    reinstated boolean NOT NULL,
    token_digest blob,
    issued_at bigint,
    receipt_due_at bigint,
    expires_at bigint
);

CREATE TABLE certificate (
    id uuid_text NOT NULL PRIMARY KEY,
    container uuid_text,
    "user" text NOT NULL,
    content text NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    points bigint NOT NULL,
    reference text,
    generation bigint NOT NULL,
    token_digest blob NOT NULL,
    issued_at bigint NOT NULL,
    receipt_due_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    received_at bigint,
    settlement text,
    provider text,
    settled_at bigint,
    grants bigint NOT NULL,
    granted bigint NOT NULL,
    outstanding bigint NOT NULL
);

CREATE TABLE pending_reception (
    id uuid_text NOT NULL PRIMARY KEY,
    container boolean NOT NULL,
    "user" text NOT NULL,
    token_digest blob,
    due_at bigint
);

CREATE TABLE license (
    id uuid_text NOT NULL PRIMARY KEY,
    certificate uuid_text NOT NULL,
    "user" text NOT NULL,
    content text NOT NULL,
    version bigint NOT NULL,
    terminal text,
    token text NOT NULL,
    state text NOT NULL,
    revocation text,
    issued_at bigint NOT NULL,
    granted_at bigint
);

CREATE TABLE license_return (
    id uuid_text NOT NULL PRIMARY KEY,
    license uuid_text NOT NULL,
    certificate uuid_text NOT NULL,
    "user" text NOT NULL,
    privilege text NOT NULL,
    state text NOT NULL,
    opened_at bigint NOT NULL,
    delete_by bigint NOT NULL,
    closed_at bigint
);

CREATE TABLE collection (
    id uuid_text NOT NULL PRIMARY KEY,
    license uuid_text NOT NULL,
    "user" text NOT NULL,
    content text NOT NULL,
    version bigint NOT NULL,
    certificate uuid_text NOT NULL,
    settlement text NOT NULL,
    provider text NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    kind text NOT NULL,
    purchased_at bigint NOT NULL,
    granted_at bigint NOT NULL,
    returned_at bigint NOT NULL
);

CREATE TABLE privilege (
    id uuid_text NOT NULL PRIMARY KEY,
    "user" text NOT NULL,
    kind text NOT NULL,
    points bigint,
    certificate uuid_text,
    amount_minor bigint,
    currency text
);

CREATE TABLE payout (
    provider text NOT NULL,
    payout text NOT NULL,
    license_return uuid_text NOT NULL,
    state text NOT NULL,
    amount_minor bigint,
    currency text,
    sequence bigint NOT NULL,
    reason text,
    registered_at bigint NOT NULL,
    cause uuid_text NOT NULL,
    PRIMARY KEY (provider, payout)
);

CREATE TABLE reference (
    reference text NOT NULL,
    sender text NOT NULL,
    earlier bigint NOT NULL,
    purchase uuid_text NOT NULL,
    container boolean NOT NULL,
    PRIMARY KEY (reference, sender, earlier)
);

CREATE TABLE account (
    name text NOT NULL PRIMARY KEY,
    balance bigint NOT NULL
);

CREATE TABLE entry (
    id uuid_text NOT NULL PRIMARY KEY,
    account text NOT NULL,
    delta bigint NOT NULL,
    cause uuid_text NOT NULL,
    booked_at bigint NOT NULL
);

CREATE TABLE settlement (
    provider text NOT NULL,
    provider_reference text NOT NULL,
    certificate uuid_text,
    container uuid_text,
    reported_certificate uuid_text,
    reported_container uuid_text,
    outcome text NOT NULL,
    amount_minor bigint,
    currency text,
    grants bigint,
    refunded_minor bigint NOT NULL,
    registered_at bigint NOT NULL,
    cause uuid_text NOT NULL,
    PRIMARY KEY (provider, provider_reference)
);

CREATE TABLE refund (
    provider text NOT NULL,
    settlement text NOT NULL,
    refund text NOT NULL,
    certificate uuid_text,
    container uuid_text,
    amount_minor bigint,
    currency text,
    outcome text NOT NULL,
    counted_minor bigint,
    unmatched boolean NOT NULL,
    registered_at bigint NOT NULL,
    cause uuid_text NOT NULL,
    PRIMARY KEY (provider, settlement, refund)
);

CREATE TABLE reinstatement (
    id uuid_text NOT NULL PRIMARY KEY,
    provider text NOT NULL,
    settlement text NOT NULL,
    refund text,
    certificate uuid_text,
    container uuid_text,
    registered_at bigint NOT NULL
);

CREATE TABLE unmatched_settlement (
    id uuid_text NOT NULL PRIMARY KEY,
    kind text NOT NULL,
    provider text NOT NULL,
    settlement text NOT NULL,
    refund text,
    certificate uuid_text,
    container uuid_text,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    grants bigint,
    reason text NOT NULL,
    recorded_at bigint NOT NULL,
    refunded_by text
);

CREATE TABLE journal (
    id uuid_text NOT NULL PRIMARY KEY,
    kind text NOT NULL,
    sender text,
    digest blob NOT NULL,
    subject uuid_text,
    code text,
    decided_at bigint NOT NULL,
    position bigint NOT NULL,
    outputs blob NOT NULL,
    changes blob
);

CREATE TABLE mention (
    subject uuid_text NOT NULL,
    journal uuid_text NOT NULL,
    PRIMARY KEY (subject, journal)
);

CREATE TABLE signing_key (
    kid text NOT NULL PRIMARY KEY,
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

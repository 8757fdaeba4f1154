//! The checks that need only the tables. Each check is one SQL query that finds the rows that
//! violate an invariant.

/// A check of the tables.
pub(super) struct Check {
    /// The invariant's number.
    pub(super) invariant: u8,
    /// A description of the rows that the query finds.
    pub(super) what: &'static str,
    /// The query. Its first column identifies the rows that violate the invariant.
    pub(super) find: &'static str,
}

/// The checks, in SQL that both PostgreSQL and SQLite accept. Joins by certificate and joins by
/// container are separate parts of a `UNION`. With `OR` in the join condition, a planner might
/// compare each row with all others.
pub(super) const CHECKS: &[Check] = &[
    Check {
        invariant: 1,
        what: "a license without a settlement",
        find: "SELECT l.id FROM license l LEFT JOIN certificate c ON c.id = l.certificate \
               LEFT JOIN certificate_record cr ON cr.id = l.certificate \
               WHERE COALESCE(c.settlement, cr.settlement) IS NULL",
    },
    Check {
        invariant: 2,
        what: "a live certificate whose granted and outstanding licenses exceed its grants",
        find: "SELECT id FROM certificate \
               WHERE granted + outstanding > grants OR granted < 0 OR outstanding < 0",
    },
    Check {
        invariant: 2,
        what: "an ended certificate whose granted licenses exceed its grants",
        find: "SELECT id FROM certificate_record WHERE ended IS NOT NULL AND granted > grants",
    },
    Check {
        invariant: 2,
        what: "a certificate whose outstanding count differs from the number of its outstanding licenses",
        find: "SELECT c.id FROM certificate c WHERE c.outstanding <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = c.id \
               AND l.state = 'outstanding')",
    },
    Check {
        invariant: 2,
        what: "a certificate whose granted count differs from the number of its granted and returned licenses",
        find: "SELECT cr.id FROM certificate_record cr LEFT JOIN certificate c ON c.id = cr.id \
               WHERE COALESCE(c.granted, cr.granted) <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = cr.id \
               AND l.state IN ('granted', 'returning')) + \
               (SELECT COUNT(*) FROM license_return r WHERE r.certificate = cr.id \
               AND r.state = 'completed')",
    },
    Check {
        invariant: 3,
        what: "a settlement that names no purchase or two purchases",
        find: "SELECT provider_reference FROM settlement \
               WHERE (certificate IS NULL) = (container IS NULL)",
    },
    Check {
        invariant: 3,
        what: "two settlements for one purchase",
        find: "SELECT COALESCE(container, certificate) FROM settlement WHERE outcome = 'completed' \
               GROUP BY COALESCE(container, certificate) HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 3,
        what: "a settlement whose amount differs from the amount due",
        find: "SELECT s.provider_reference FROM settlement s WHERE s.outcome = 'completed' \
               AND s.amount_minor <> \
               (SELECT COALESCE(SUM(due.amount_minor - due.points), -1) FROM \
                (SELECT amount_minor, points FROM certificate_record \
               WHERE id = s.certificate UNION ALL \
                 SELECT amount_minor, points FROM certificate_record \
               WHERE container = s.container) due)",
    },
    Check {
        invariant: 3,
        what: "a settlement whose currency differs from that of its purchase",
        find: "SELECT s.provider_reference FROM settlement s \
               JOIN certificate_record cr ON cr.id = s.certificate \
               WHERE s.outcome = 'completed' AND s.currency <> cr.currency UNION ALL \
               SELECT s.provider_reference FROM settlement s \
               JOIN certificate_record cr ON cr.container = s.container \
               WHERE s.outcome = 'completed' AND s.currency <> cr.currency",
    },
    Check {
        invariant: 3,
        what: "a settlement that is registered and also listed as unmatched",
        find: "SELECT u.settlement FROM unmatched_settlement u \
               JOIN settlement s ON s.provider = u.provider \
               AND s.provider_reference = u.settlement AND s.amount_minor = u.amount_minor \
               AND s.currency = u.currency AND u.kind = 'payment' AND u.reason <> 'reversed' \
               AND u.refunded_by IS NULL \
               AND (s.container = u.container OR s.certificate = u.certificate)",
    },
    Check {
        invariant: 3,
        what: "an unmatched payment that names a refund that did not return it",
        find: "SELECT u.settlement FROM unmatched_settlement u LEFT JOIN refund r \
               ON r.provider = u.provider AND r.settlement = u.settlement AND r.refund = u.refunded_by \
               AND r.unmatched AND r.outcome = 'refunded' AND r.currency = u.currency \
               WHERE u.refunded_by IS NOT NULL AND (r.refund IS NULL OR u.kind <> 'payment')",
    },
    Check {
        invariant: 3,
        what: "a refund of unmatched money whose amount differs from the payments that it returned",
        find: "SELECT r.refund FROM refund r WHERE r.unmatched AND r.outcome = 'refunded' \
               AND r.counted_minor <> (SELECT COALESCE(SUM(u.amount_minor), 0) FROM unmatched_settlement u \
                WHERE u.provider = r.provider AND u.settlement = r.settlement AND u.refunded_by = r.refund)",
    },
    Check {
        invariant: 3,
        what: "a license that is not revoked although its settlement was reversed",
        find: "SELECT l.id FROM license l JOIN certificate_record cr ON cr.id = l.certificate \
               LEFT JOIN certificate c ON c.id = cr.id \
               JOIN settlement s ON s.provider = COALESCE(c.provider, cr.provider) \
               AND s.provider_reference = COALESCE(c.settlement, cr.settlement) \
               WHERE s.outcome = 'reversed' AND l.state <> 'revoked'",
    },
    Check {
        invariant: 6,
        what: "a license that is revoked without a reason, or has a reason without being revoked",
        find: "SELECT id FROM license WHERE (state = 'revoked') <> (revocation IS NOT NULL)",
    },
    Check {
        invariant: 3,
        what: "a live certificate whose settlement was reversed, has failed or has not arrived",
        find: "SELECT c.id FROM certificate c JOIN settlement s ON s.provider = c.provider \
               AND s.provider_reference = c.settlement \
               WHERE s.outcome <> 'completed'",
    },
    Check {
        invariant: 3,
        what: "a settlement whose refunds exceed the payment, or differ from the sum that it records",
        find: "SELECT s.provider_reference FROM settlement s LEFT JOIN \
               (SELECT provider, settlement, COALESCE(SUM(counted_minor), 0) AS parts, \
                SUM(CASE WHEN counted_minor IS NULL THEN 1 ELSE 0 END) AS rests \
                FROM refund WHERE NOT unmatched AND outcome IN ('refunded', 'reversed') \
                GROUP BY provider, settlement) r \
               ON r.provider = s.provider AND r.settlement = s.provider_reference \
               WHERE s.refunded_minor <> CASE WHEN r.rests > 0 THEN s.amount_minor \
               ELSE COALESCE(r.parts, 0) END OR r.parts > s.amount_minor",
    },
    Check {
        invariant: 3,
        what: "a settlement that is reversed although not everything is refunded, or the opposite",
        find: "SELECT s.provider_reference FROM settlement s WHERE s.amount_minor > 0 \
               AND (s.outcome = 'reversed') <> (s.refunded_minor = s.amount_minor)",
    },
    Check {
        invariant: 3,
        what: "a refunded member of a container that is not revoked",
        find: "SELECT cr.id FROM refund r JOIN settlement s ON s.provider = r.provider \
               AND s.provider_reference = r.settlement AND s.container IS NOT NULL \
               JOIN certificate_record cr ON cr.id = r.certificate AND cr.container = s.container \
               WHERE NOT r.unmatched AND r.outcome IN ('refunded', 'reversed') \
               AND (s.reported_certificate IS NULL OR s.reported_certificate <> cr.id) \
               AND (cr.ended IS NULL OR cr.ended <> 'reversed' OR cr.reinstated)",
    },
    Check {
        invariant: 5,
        what: "held points that differ from the points of the unsettled certificates",
        find: "SELECT 'licet:held' AS account WHERE (SELECT COALESCE(SUM(delta), 0) FROM entry \
               WHERE account = 'licet:held') <> \
               (SELECT COALESCE(SUM(points), 0) FROM certificate WHERE settlement IS NULL)",
    },
    Check {
        invariant: 3,
        what: "a certificate that names a settlement that does not pay for it",
        find: "SELECT cr.id FROM certificate_record cr LEFT JOIN certificate c ON c.id = cr.id \
               LEFT JOIN settlement s ON s.provider = COALESCE(c.provider, cr.provider) \
               AND s.provider_reference = COALESCE(c.settlement, cr.settlement) \
               AND (s.container = cr.container OR s.certificate = cr.id) \
               WHERE COALESCE(c.settlement, cr.settlement) IS NOT NULL \
               AND s.provider_reference IS NULL",
    },
    Check {
        invariant: 3,
        what: "a settlement that its certificate does not name",
        find: "SELECT cr.id FROM settlement s JOIN certificate_record cr ON cr.id = s.certificate \
               LEFT JOIN certificate c ON c.id = cr.id WHERE s.outcome = 'completed' \
               AND COALESCE(c.settlement, cr.settlement, '') <> s.provider_reference UNION ALL \
               SELECT cr.id FROM settlement s \
               JOIN certificate_record cr ON cr.container = s.container \
               LEFT JOIN certificate c ON c.id = cr.id WHERE s.outcome = 'completed' \
               AND COALESCE(c.settlement, cr.settlement, '') <> s.provider_reference",
    },
    Check {
        invariant: 4,
        what: "a completed return without a collection row or a privilege",
        find: "SELECT r.id FROM license_return r LEFT JOIN collection c ON c.id = r.id \
               LEFT JOIN privilege v ON v.id = r.id \
               WHERE r.state = 'completed' AND (c.id IS NULL OR v.id IS NULL)",
    },
    Check {
        invariant: 4,
        what: "a collection row or a privilege without a completed return",
        find: "SELECT x.id FROM (SELECT id FROM collection UNION SELECT id FROM privilege) x \
               LEFT JOIN license_return r ON r.id = x.id AND r.state = 'completed' \
               WHERE r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "an upgrade without the record of its certificate",
        find: "SELECT r.id FROM privilege r \
               LEFT JOIN certificate_record cr ON cr.id = r.certificate \
               WHERE r.kind = 'upgrade' AND cr.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a payout that belongs to no buy-back",
        find: "SELECT o.payout FROM payout o LEFT JOIN privilege r ON r.id = o.license_return \
               AND r.kind = 'buyback' WHERE r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a completed payout whose amount differs from that of its buy-back",
        find: "SELECT o.payout FROM payout o LEFT JOIN privilege r ON r.id = o.license_return \
               AND r.amount_minor = o.amount_minor AND r.currency = o.currency \
               WHERE o.state = 'completed' AND r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a payout that is recorded as mismatched although its amount is that of its buy-back",
        find: "SELECT o.payout FROM payout o JOIN privilege r ON r.id = o.license_return \
               AND r.amount_minor = o.amount_minor AND r.currency = o.currency \
               WHERE o.state = 'mismatched'",
    },
    Check {
        invariant: 4,
        what: "a payout whose amount or failure reason contradicts its state",
        find: "SELECT payout FROM payout WHERE (state = 'pending') <> (amount_minor IS NULL) \
               OR (amount_minor IS NULL) <> (currency IS NULL) \
               OR (state IN ('failed', 'pending')) <> (reason IS NOT NULL)",
    },
    Check {
        invariant: 4,
        what: "a certificate whose returns, with those of its upgrades, brought more than was paid for it",
        find: "WITH RECURSIVE origin (certificate, first) AS ( \
               SELECT r.certificate, r.certificate FROM license_return r \
               LEFT JOIN privilege u ON u.certificate = r.certificate \
               WHERE r.state = 'completed' AND u.id IS NULL \
               UNION SELECT v.certificate, o.first FROM origin o \
               JOIN license_return r ON r.certificate = o.certificate \
               JOIN privilege v ON v.id = r.id WHERE v.certificate IS NOT NULL) \
               SELECT o.first FROM origin o JOIN license_return r ON r.certificate = o.certificate \
               JOIN privilege v ON v.id = r.id JOIN certificate_record cr ON cr.id = o.first \
               GROUP BY o.first, cr.amount_minor \
               HAVING SUM(COALESCE(v.points, 0) + COALESCE(v.amount_minor, 0)) > cr.amount_minor",
    },
    Check {
        invariant: 4,
        what: "a license that was returned twice",
        find: "SELECT license FROM collection GROUP BY license HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 4,
        what: "a returned license that still exists",
        find: "SELECT l.id FROM license l JOIN collection c ON c.license = l.id",
    },
    Check {
        invariant: 5,
        what: "entries of one message that do not sum to zero",
        find: "SELECT cause FROM entry GROUP BY cause HAVING SUM(delta) <> 0",
    },
    Check {
        invariant: 5,
        what: "an account whose balance is negative or differs from the sum of its entries",
        find: "SELECT a.name FROM account a WHERE a.balance < 0 OR a.balance <> \
               (SELECT COALESCE(SUM(e.delta), 0) FROM entry e WHERE e.account = a.name)",
    },
    Check {
        invariant: 5,
        what: "an entry of a user account that does not exist",
        find: "SELECT e.id FROM entry e LEFT JOIN account a ON a.name = e.account \
               WHERE e.account NOT LIKE 'licet:%' AND a.name IS NULL",
    },
    Check {
        invariant: 5,
        what: "debts of users that do not add up to the points owed to Licet",
        find: "SELECT 'licet:owed' AS account WHERE (SELECT COALESCE(SUM(delta), 0) FROM entry \
               WHERE account = 'licet:owed') + \
               (SELECT COALESCE(SUM(balance), 0) FROM account WHERE name LIKE 'debt:%') <> 0",
    },
    Check {
        invariant: 6,
        what: "a settlement, a refund, a reinstatement, a payout or an entry whose message is not in the journal",
        find: "SELECT x.cause FROM (SELECT cause FROM settlement UNION SELECT cause \
               FROM payout UNION SELECT cause FROM entry UNION SELECT cause FROM refund \
               UNION SELECT id FROM reinstatement) x \
               LEFT JOIN journal j ON j.id = x.cause WHERE j.id IS NULL",
    },
    Check {
        invariant: 7,
        what: "a pending reception without a live certificate that waits for it",
        find: "SELECT r.id FROM pending_reception r WHERE \
               NOT EXISTS (SELECT 1 FROM certificate c WHERE c.id = r.id \
               AND c.received_at IS NULL) AND \
               NOT EXISTS (SELECT 1 FROM certificate c WHERE c.container = r.id \
               AND c.received_at IS NULL)",
    },
    Check {
        invariant: 6,
        what: "a mention of a purchase by a journal row that does not exist",
        find: "SELECT m.subject FROM mention m LEFT JOIN journal j ON j.id = m.journal \
               WHERE j.id IS NULL",
    },
    Check {
        invariant: 6,
        what: "a reference whose purchase does not exist or has another reference",
        find: "SELECT f.purchase FROM reference f WHERE \
               NOT EXISTS (SELECT 1 FROM certificate_record cr WHERE cr.id = f.purchase \
               AND cr.container IS NULL AND cr.reference = f.reference) AND \
               NOT EXISTS (SELECT 1 FROM certificate_record cr WHERE cr.container = f.purchase \
               AND cr.reference = f.reference)",
    },
    Check {
        invariant: 6,
        what: "a reference whose purchases are not numbered without gaps, or that names a purchase twice",
        find: "SELECT f.purchase FROM reference f WHERE f.earlier > 0 AND \
               NOT EXISTS (SELECT 1 FROM reference e WHERE e.reference = f.reference \
               AND e.sender = f.sender AND e.earlier = f.earlier - 1) UNION ALL \
               SELECT purchase FROM reference GROUP BY purchase HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 7,
        what: "a pending reception with a deadline for a paid purchase, or without one for an unpaid purchase",
        find: "SELECT r.id FROM pending_reception r JOIN certificate c ON c.id = r.id \
               WHERE (c.settlement IS NULL) <> (r.due_at IS NOT NULL) UNION ALL \
               SELECT r.id FROM pending_reception r JOIN certificate c ON c.container = r.id \
               WHERE (c.settlement IS NULL) <> (r.due_at IS NOT NULL)",
    },
    Check {
        invariant: 7,
        what: "a live certificate that is not received and has no pending reception",
        find: "SELECT c.id FROM certificate c WHERE c.received_at IS NULL AND NOT EXISTS \
               (SELECT 1 FROM pending_reception r WHERE r.id = COALESCE(c.container, c.id))",
    },
    Check {
        invariant: 8,
        what: "a certificate record that is live without a certificate row, or ended with one",
        find: "SELECT cr.id FROM certificate_record cr LEFT JOIN certificate c ON c.id = cr.id \
               WHERE (cr.ended IS NULL) <> (c.id IS NOT NULL)",
    },
    Check {
        invariant: 8,
        what: "a certificate without a record",
        find: "SELECT c.id FROM certificate c LEFT JOIN certificate_record cr ON cr.id = c.id \
               WHERE cr.id IS NULL",
    },
];

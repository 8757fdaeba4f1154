//! What can be told from the tables alone.

/// A check of the tables.
pub(super) struct Check {
    /// The invariant's number.
    pub(super) invariant: u8,
    /// What is wrong where it finds anything.
    pub(super) what: &'static str,
    /// Finds the rows that break it; the first column names them.
    pub(super) find: &'static str,
}

/// SQL that PostgreSQL and SQLite both speak. What belongs to a certificate or to a container is joined in two parts:
/// with `OR` between them a planner may compare every row with every other.
pub(super) const CHECKS: &[Check] = &[
    Check {
        invariant: 1,
        what: "a license without a settlement",
        find: "SELECT l.id FROM license l LEFT JOIN certificate c ON c.id = l.certificate \
               LEFT JOIN purchase p ON p.id = l.certificate WHERE COALESCE(c.settlement, p.settlement) IS NULL",
    },
    Check {
        invariant: 2,
        what: "a live certificate that has granted or issued more than it grants",
        find: "SELECT id FROM certificate WHERE granted + outstanding > grants OR granted < 0 OR outstanding < 0",
    },
    Check {
        invariant: 2,
        what: "an ended certificate that has granted more than it grants",
        find: "SELECT id FROM purchase WHERE ended IS NOT NULL AND granted > grants",
    },
    Check {
        invariant: 2,
        what: "a certificate whose outstanding count is not the number of its outstanding licenses",
        find: "SELECT c.id FROM certificate c WHERE c.outstanding <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = c.id AND l.state = 'outstanding')",
    },
    Check {
        invariant: 2,
        what: "a purchase whose count is not the number of its licenses granted and returned",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id WHERE COALESCE(c.granted, p.granted) <> \
               (SELECT COUNT(*) FROM license l WHERE l.certificate = p.id AND l.state IN ('granted', 'returning')) + \
               (SELECT COUNT(*) FROM license_return r WHERE r.certificate = p.id AND r.state = 'completed')",
    },
    Check {
        invariant: 3,
        what: "a settlement that pays for no purchase, or for two",
        find: "SELECT settlement FROM settlement WHERE (certificate IS NULL) = (container IS NULL)",
    },
    Check {
        invariant: 3,
        what: "two settlements for one purchase",
        find: "SELECT COALESCE(container, certificate) FROM settlement WHERE outcome = 'completed' \
               GROUP BY COALESCE(container, certificate) HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 3,
        what: "a settlement whose amount is not what was due",
        find: "SELECT s.settlement FROM settlement s WHERE s.outcome = 'completed' AND s.amount_minor <> \
               (SELECT COALESCE(SUM(p.amount_minor - p.points), -1) FROM \
                (SELECT amount_minor, points FROM purchase WHERE id = s.certificate UNION ALL \
                 SELECT amount_minor, points FROM purchase WHERE container = s.container) p)",
    },
    Check {
        invariant: 3,
        what: "a settlement in another currency than what it pays for",
        find: "SELECT s.settlement FROM settlement s JOIN purchase p ON p.id = s.certificate \
               WHERE s.outcome = 'completed' AND s.currency <> p.currency UNION ALL \
               SELECT s.settlement FROM settlement s JOIN purchase p ON p.container = s.container \
               WHERE s.outcome = 'completed' AND s.currency <> p.currency",
    },
    Check {
        invariant: 3,
        what: "a settlement that is registered and still without a match",
        find: "SELECT u.settlement FROM unmatched_settlement u JOIN settlement s ON s.provider = u.provider \
               AND s.settlement = u.settlement AND s.amount_minor = u.amount_minor AND s.currency = u.currency \
               AND COALESCE(s.container, s.certificate) = COALESCE(u.container, u.certificate)",
    },
    Check {
        invariant: 3,
        what: "a license that was paid for by a settlement which was reversed",
        find: "SELECT l.id FROM license l JOIN purchase p ON p.id = l.certificate LEFT JOIN certificate c ON c.id = p.id \
               JOIN settlement s ON s.provider = COALESCE(c.provider, p.provider) \
               AND s.settlement = COALESCE(c.settlement, p.settlement) \
               WHERE s.outcome = 'reversed' AND l.state <> 'revoked'",
    },
    Check {
        invariant: 3,
        what: "a live certificate whose settlement was reversed or failed",
        find: "SELECT c.id FROM certificate c JOIN settlement s ON s.provider = c.provider AND s.settlement = c.settlement \
               WHERE s.outcome <> 'completed'",
    },
    Check {
        invariant: 5,
        what: "points are held otherwise than live certificates wait for",
        find: "SELECT 'licet:held' AS account WHERE (SELECT COALESCE(SUM(delta), 0) FROM entry WHERE account = 'licet:held') <> \
               (SELECT COALESCE(SUM(points), 0) FROM certificate WHERE settlement IS NULL)",
    },
    Check {
        invariant: 3,
        what: "a certificate that names a settlement which does not pay for it",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id \
               LEFT JOIN settlement s ON s.provider = COALESCE(c.provider, p.provider) \
               AND s.settlement = COALESCE(c.settlement, p.settlement) \
               AND (s.container = p.container OR s.certificate = p.id) \
               WHERE COALESCE(c.settlement, p.settlement) IS NOT NULL AND s.settlement IS NULL",
    },
    Check {
        invariant: 3,
        what: "a settlement that its certificate does not know",
        find: "SELECT p.id FROM settlement s JOIN purchase p ON p.id = s.certificate \
               LEFT JOIN certificate c ON c.id = p.id WHERE s.outcome = 'completed' \
               AND COALESCE(c.settlement, p.settlement, '') <> s.settlement UNION ALL \
               SELECT p.id FROM settlement s JOIN purchase p ON p.container = s.container \
               LEFT JOIN certificate c ON c.id = p.id WHERE s.outcome = 'completed' \
               AND COALESCE(c.settlement, p.settlement, '') <> s.settlement",
    },
    Check {
        invariant: 4,
        what: "a completed return without its collection or its privilege",
        find: "SELECT r.id FROM license_return r LEFT JOIN collection c ON c.id = r.id LEFT JOIN privilege p ON p.id = r.id \
               WHERE r.state = 'completed' AND (c.id IS NULL OR p.id IS NULL)",
    },
    Check {
        invariant: 4,
        what: "a collection or a privilege without its completed return",
        find: "SELECT x.id FROM (SELECT id FROM collection UNION SELECT id FROM privilege) x \
               LEFT JOIN license_return r ON r.id = x.id AND r.state = 'completed' WHERE r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "an upgrade without its certificate's purchase",
        find: "SELECT r.id FROM privilege r LEFT JOIN purchase p ON p.id = r.certificate \
               WHERE r.kind = 'upgrade' AND p.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a payout that is not what its return is worth",
        find: "SELECT o.payout FROM payout o LEFT JOIN privilege r ON r.id = o.license_return AND r.kind = 'buyback' \
               AND r.amount_minor = o.amount_minor AND r.currency = o.currency WHERE r.id IS NULL",
    },
    Check {
        invariant: 4,
        what: "a license that was returned twice",
        find: "SELECT license FROM collection GROUP BY license HAVING COUNT(*) > 1",
    },
    Check {
        invariant: 4,
        what: "a returned license that is still there",
        find: "SELECT l.id FROM license l JOIN collection c ON c.license = l.id",
    },
    Check {
        invariant: 5,
        what: "entries of one message that do not sum to zero",
        find: "SELECT cause FROM entry GROUP BY cause HAVING SUM(delta) <> 0",
    },
    Check {
        invariant: 5,
        what: "an account whose balance is not the sum of its entries, or is below zero",
        find: "SELECT a.name FROM account a WHERE a.balance < 0 OR a.balance <> \
               (SELECT COALESCE(SUM(e.delta), 0) FROM entry e WHERE e.account = a.name)",
    },
    Check {
        invariant: 5,
        what: "points of a user without an account",
        find: "SELECT e.id FROM entry e LEFT JOIN account a ON a.name = e.account \
               WHERE e.account NOT LIKE 'licet:%' AND a.name IS NULL",
    },
    Check {
        invariant: 5,
        what: "what users owe is not what is owed to Licet",
        find: "SELECT 'licet:owed' AS account WHERE (SELECT COALESCE(SUM(delta), 0) FROM entry WHERE account = 'licet:owed') + \
               (SELECT COALESCE(SUM(balance), 0) FROM account WHERE name LIKE 'debt:%') <> 0",
    },
    Check {
        invariant: 6,
        what: "a settlement, a payout or a booking whose message is not in the journal",
        find: "SELECT x.cause FROM (SELECT cause FROM settlement UNION SELECT cause FROM payout UNION SELECT cause FROM entry) x \
               LEFT JOIN journal j ON j.id = x.cause WHERE j.id IS NULL",
    },
    Check {
        invariant: 7,
        what: "a pending reception without a live certificate that waits for it",
        find: "SELECT r.id FROM pending_reception r WHERE \
               NOT EXISTS (SELECT 1 FROM certificate c WHERE c.id = r.id AND c.received_at IS NULL) AND \
               NOT EXISTS (SELECT 1 FROM certificate c WHERE c.container = r.id AND c.received_at IS NULL)",
    },
    Check {
        invariant: 6,
        what: "a purchase that is mentioned without a journal row",
        find: "SELECT m.subject FROM mention m LEFT JOIN journal j ON j.id = m.journal WHERE j.id IS NULL",
    },
    Check {
        invariant: 7,
        what: "a pending reception that may lapse although it is paid for, or may not although it is not",
        find: "SELECT r.id FROM pending_reception r JOIN certificate c ON c.id = r.id \
               WHERE (c.settlement IS NULL) <> (r.due_at IS NOT NULL) UNION ALL \
               SELECT r.id FROM pending_reception r JOIN certificate c ON c.container = r.id \
               WHERE (c.settlement IS NULL) <> (r.due_at IS NOT NULL)",
    },
    Check {
        invariant: 7,
        what: "a live certificate that waits for its reception and is not pending",
        find: "SELECT c.id FROM certificate c WHERE c.received_at IS NULL AND NOT EXISTS \
               (SELECT 1 FROM pending_reception r WHERE r.id = COALESCE(c.container, c.id))",
    },
    Check {
        invariant: 8,
        what: "a purchase that says live without a certificate, or ended with one",
        find: "SELECT p.id FROM purchase p LEFT JOIN certificate c ON c.id = p.id \
               WHERE (p.ended IS NULL) <> (c.id IS NOT NULL)",
    },
    Check {
        invariant: 8,
        what: "a certificate without its purchase",
        find: "SELECT c.id FROM certificate c LEFT JOIN purchase p ON p.id = c.id WHERE p.id IS NULL",
    },
];

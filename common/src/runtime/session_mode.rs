//! The number of messages that the next session receives at a time, which depends on how the
//! previous sessions ended.

/// After this number of consecutive sessions that settled nothing, the next session receives a
/// single message. This message may be the reason that sessions end, and it must not cause other
/// messages to reach their delivery limits.
const UNPRODUCTIVE_MAX: u32 = 3;

/// The mode of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionMode {
    /// The session receives as many messages as configured.
    Normal {
        /// The number of consecutive sessions up to now that settled nothing.
        unproductive: u32,
    },
    /// The session receives only as many large messages at a time as a worker can buffer. It ends
    /// after it has settled the usual prefetch of messages.
    LargeMessages {
        /// The size of the largest body that was delivered, in bytes.
        largest: usize,
        /// The number of consecutive sessions up to now that settled nothing.
        unproductive: u32,
    },
    /// The session receives a single message, which the worker keeps and tries again while the
    /// database is unavailable.
    Quarantine,
}

/// How a session ended, as far as it affects the mode of the next session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The session could not connect.
    NotConnected,
    /// The session failed, or it settled as many messages as its mode allows.
    Ended {
        /// Whether the session settled anything.
        productive: bool,
    },
    /// The deliveries exceeded the buffer of the consumer.
    TooLarge {
        /// The size of the largest body that was delivered, in bytes.
        largest: usize,
        /// Whether the session settled anything.
        productive: bool,
    },
}

impl SessionMode {
    /// The mode of the first session.
    pub(super) const FIRST: Self = Self::Normal { unproductive: 0 };

    /// The mode of the next session.
    pub(super) fn next(self, end: SessionEnd) -> Self {
        let productive = match end {
            SessionEnd::NotConnected => return self,
            SessionEnd::Ended { productive } | SessionEnd::TooLarge { productive, .. } => productive,
        };
        let unproductive = if productive { 0 } else { self.unproductive() + 1 };
        match end {
            _ if unproductive >= UNPRODUCTIVE_MAX => Self::Quarantine,
            SessionEnd::TooLarge { largest, .. } => Self::LargeMessages { largest, unproductive },
            SessionEnd::Ended { .. } | SessionEnd::NotConnected => Self::Normal { unproductive },
        }
    }

    fn unproductive(self) -> u32 {
        match self {
            Self::Normal { unproductive } | Self::LargeMessages { unproductive, .. } => unproductive,
            Self::Quarantine => UNPRODUCTIVE_MAX,
        }
    }

    /// The number of messages that the broker may send in advance. `usual` is the configured
    /// number, and a worker may buffer bodies of up to `held_bytes`.
    pub(super) fn prefetch(self, usual: u16, held_bytes: usize) -> u16 {
        match self {
            Self::Normal { .. } => usual,
            Self::LargeMessages { largest, .. } => {
                u16::try_from(held_bytes / largest.max(1)).unwrap_or(u16::MAX).clamp(1, usual)
            }
            Self::Quarantine => 1,
        }
    }

    /// The number of messages after which the session ends, so that the next session can use a less
    /// restrictive mode. `None` if there is no limit.
    pub(super) fn message_limit(self, usual_prefetch: u16) -> Option<usize> {
        match self {
            Self::Normal { .. } => None,
            Self::LargeMessages { .. } => Some(usize::from(usual_prefetch)),
            Self::Quarantine => Some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: SessionEnd = SessionEnd::Ended { productive: false };
    const WORKED: SessionEnd = SessionEnd::Ended { productive: true };

    fn after(ends: &[SessionEnd]) -> SessionMode {
        ends.iter().fold(SessionMode::FIRST, |mode, end| mode.next(*end))
    }

    #[test]
    fn three_sessions_in_a_row_that_settle_nothing_lead_to_quarantine_and_one_that_does_leads_out() {
        assert_eq!(after(&[FAILED, FAILED]), SessionMode::Normal { unproductive: 2 });
        assert_eq!(after(&[FAILED, FAILED, FAILED]), SessionMode::Quarantine);
        assert_eq!(after(&[FAILED, FAILED, WORKED, FAILED]), SessionMode::Normal { unproductive: 1 });
        assert_eq!(after(&[FAILED, FAILED, FAILED, FAILED]), SessionMode::Quarantine);
        assert_eq!(after(&[FAILED, FAILED, FAILED, WORKED]), SessionMode::FIRST);
    }

    #[test]
    fn a_missing_connection_changes_nothing() {
        let large = SessionMode::LargeMessages { largest: 9, unproductive: 1 };
        for mode in [SessionMode::FIRST, large, SessionMode::Quarantine] {
            assert_eq!(mode.next(SessionEnd::NotConnected), mode);
        }
    }

    #[test]
    fn large_messages_are_taken_as_many_at_a_time_as_fit_until_the_session_ends() {
        let large = SessionMode::FIRST.next(SessionEnd::TooLarge { largest: 1 << 20, productive: true });
        assert_eq!(large, SessionMode::LargeMessages { largest: 1 << 20, unproductive: 0 });
        assert_eq!(large.prefetch(512, 4 << 20), 4);
        assert_eq!(large.message_limit(512), Some(512));
        assert_eq!(large.next(WORKED), SessionMode::FIRST);
        let huge = SessionMode::LargeMessages { largest: 64 << 20, unproductive: 0 };
        assert_eq!(huge.prefetch(512, 4 << 20), 1);
        let small = SessionMode::LargeMessages { largest: 0, unproductive: 0 };
        assert_eq!(small.prefetch(512, 4 << 20), 512);
    }

    #[test]
    fn large_messages_that_are_never_settled_lead_to_quarantine_too() {
        let too_large = SessionEnd::TooLarge { largest: 9, productive: false };
        assert_eq!(after(&[too_large, too_large]), SessionMode::LargeMessages { largest: 9, unproductive: 2 });
        assert_eq!(after(&[too_large, FAILED, too_large]), SessionMode::Quarantine);
    }

    #[test]
    fn quarantine_takes_a_single_message() {
        assert_eq!(SessionMode::Quarantine.prefetch(512, 4 << 20), 1);
        assert_eq!(SessionMode::Quarantine.message_limit(512), Some(1));
        assert_eq!(SessionMode::FIRST.prefetch(512, 4 << 20), 512);
        assert_eq!(SessionMode::FIRST.message_limit(512), None);
    }
}

//! Points: changes to the balances of users.

use uuid::Uuid;

use crate::{
    body::bodies,
    vocabulary::{Count, Name},
};

bodies! {
    /// `points.changed`: event. A request changed a user's balance. Each request causes at most one
    /// such event per user, with the net change.
    pub struct PointsChanged {
        /// The user.
        pub user: Name,
        /// The change, in points. Negative if the balance decreased.
        pub delta: i64,
        /// The new balance, in points.
        pub balance: Count,
        /// The message id of the request that caused the change.
        pub cause: Uuid,
    }
}

//! What became of an exporter's profiles, in numbers.

/// What became of the profiles an exporter was given.
///
/// A unit is one request: a window's profile, or one part of it when it was too large for the
/// server. Each ends in exactly one of `sent`, `rejected`, `unconfirmed` and `dropped`; until then
/// it is `queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// Stored by the server, in its own words.
    pub sent: u64,
    /// The bytes of those on the wire, compressed, headers excluded.
    pub sent_bytes: u64,
    /// Requests sent that were not the first for their profile.
    pub retried: u64,
    /// Refused by the server for good: a wrong key, a limit, a profile it does not understand.
    pub rejected: u64,
    /// Sent wholly, but no answer came: the server may have stored them or not. They are not sent
    /// again, because a server that stored them would count them twice.
    pub unconfirmed: u64,
    /// Given up: waited too long, tried too often, or pushed out of a full queue by newer ones.
    pub dropped: u64,
    /// Waiting for the server now.
    pub queued: u64,
    /// The bytes of those in memory, compressed.
    pub queued_bytes: u64,
}

//! Stub.
use crate::profile::Profile;
pub(crate) fn encode_parts(_profile: &Profile) -> Vec<Vec<u8>> {
    Vec::new()
}

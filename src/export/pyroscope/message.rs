//! The message of `push.v1.PusherService/Push`, as far as we send it.

/// Profiles of several series; we send one, because of several some may be stored and others not.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<Series>,
}

/// A set of labels and the profiles that carry them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Series {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<RawProfile>,
}

/// One label.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// One profile. Its `ID` (2) is left to the server, which makes nothing of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawProfile {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) raw_profile: Vec<u8>,
}

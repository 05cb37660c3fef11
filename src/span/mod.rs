//! What is known of a span while it is open, found without asking the registry.
//!
//! A [`record`] holds the copy of a span's identity that the signal handler reads; [`index`] leads
//! from a span's id to its record; [`path`] and [`label`] turn names and field values into small
//! numbers, because a signal handler can copy a number and cannot copy a string.

pub(crate) mod index;
pub(crate) mod label;
pub(crate) mod path;
pub(crate) mod record;

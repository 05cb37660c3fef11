//! Turns a [`Profile`] into OTLP's form, whose tables point into each other by index.
//!
//! Entry 0 of every table means "nothing", so that an index left out means nothing too.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value};
use opentelemetry_proto::tonic::profiles::v1development as proto;
use prost::Message;

use super::resource::Resource;
use crate::profile::{Location, Mapping, Profile, ProfileKind, Sample, ValueType};

/// Pyroscope takes no more samples in a profile.
const MAX_SAMPLES: usize = 16_000;

/// Pyroscope takes 4 MiB of what it makes of this, which is a little more than this.
const MAX_BYTES: usize = 3 << 20;

/// One request, or several where one would be too large for the server: parts of the same window.
pub(super) fn requests(profile: &Profile, resource: &Resource) -> Vec<ExportProfilesServiceRequest> {
    let samples = weigh(profile);
    let mut out = Vec::new();
    for part in samples.chunks(MAX_SAMPLES) {
        split(profile, resource, part, &mut out);
    }
    out
}

fn split(
    profile: &Profile,
    resource: &Resource,
    samples: &[(&Sample, i64)],
    out: &mut Vec<ExportProfilesServiceRequest>,
) {
    let request = request(profile, resource, samples);
    if samples.len() > 1 && request.encoded_len() > MAX_BYTES {
        let (left, right) = samples.split_at(samples.len() / 2);
        split(profile, resource, left, out);
        split(profile, resource, right, out);
    } else {
        out.push(request);
    }
}

/// What is counted. Pyroscope makes its usual CPU profile of `samples/count` alone, by multiplying with
/// the period; so that the profile of every span is not added to it, that one has a type of its own.
fn sample_type(profile: &Profile) -> ValueType {
    match profile.kind {
        ProfileKind::ProcessCpu => ValueType::SAMPLES,
        ProfileKind::EverySpan => ValueType { kind: "span", unit: profile.weight_type.unit },
    }
}

/// The samples with their values, those of no value left out.
///
/// Where a sample's weight is no multiple of the period, as with CPU time that only the clocks know of,
/// the rest is carried to the next such sample: each is less than one off, and so is their sum.
fn weigh(profile: &Profile) -> Vec<(&Sample, i64)> {
    let mut carried = 0;
    let value = |sample: &Sample| match profile.kind {
        ProfileKind::EverySpan => sample.weight,
        ProfileKind::ProcessCpu => {
            let period = profile.period.max(1);
            let rest = sample.weight % period;
            carried += rest;
            let extra = u64::from(rest > 0 && carried >= period);
            carried -= extra * period;
            sample.weight / period + extra
        }
    };
    let values = profile.samples.iter().map(value).collect::<Vec<_>>();
    let values = values.into_iter().map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    profile.samples.iter().zip(values).filter(|&(_, value)| value > 0).collect()
}

fn request(
    profile: &Profile,
    resource: &Resource,
    samples: &[(&Sample, i64)],
) -> ExportProfilesServiceRequest {
    let mut tables = Tables::new(profile);
    let mut value_type = |of: ValueType| proto::ValueType {
        type_strindex: tables.string(of.kind),
        unit_strindex: tables.string(of.unit),
    };
    let converted = proto::Profile {
        sample_type: Some(value_type(sample_type(profile))),
        period_type: Some(value_type(profile.weight_type)),
        period: i64::try_from(profile.period.max(1)).unwrap_or(i64::MAX),
        time_unix_nano: nanos(profile.start.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nano: nanos(profile.duration),
        samples: samples.iter().map(|&(sample, value)| tables.sample(sample, value)).collect(),
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let scope_profiles =
        proto::ScopeProfiles { scope: Some(scope), profiles: vec![converted], ..Default::default() };
    ExportProfilesServiceRequest {
        resource_profiles: vec![proto::ResourceProfiles {
            resource: Some(resource.encode(&profile.service_name)),
            scope_profiles: vec![scope_profiles],
            ..Default::default()
        }],
        dictionary: Some(tables.dictionary()),
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A table whose entries are found again by key; entry 0 is its type's default.
struct Table<K, V> {
    entries: Vec<V>,
    known: HashMap<K, i32>,
}

impl<K: Hash + Eq, V: Default> Table<K, V> {
    fn new() -> Self {
        Self { entries: vec![V::default()], known: HashMap::new() }
    }

    fn find(&self, key: &K) -> Option<i32> {
        self.known.get(key).copied()
    }

    fn add(&mut self, key: K, entry: V) -> i32 {
        // A part holds 16 000 samples of at most 1 000 frames.
        let at = i32::try_from(self.entries.len()).unwrap_or(0);
        self.entries.push(entry);
        self.known.insert(key, at);
        at
    }
}

struct Tables<'a> {
    profile: &'a Profile,
    strings: Table<&'a str, String>,
    functions: Table<(&'a str, &'a str), proto::Function>,
    mappings: Table<u32, proto::Mapping>,
    locations: Table<u32, proto::Location>,
    stacks: Table<&'a [u32], proto::Stack>,
    links: Table<(u128, u64), proto::Link>,
    attributes: Table<(&'a str, &'a str), proto::KeyValueAndUnit>,
}

impl<'a> Tables<'a> {
    fn new(profile: &'a Profile) -> Self {
        let mut strings = Table::new();
        strings.known.insert("", 0);
        Self {
            profile,
            strings,
            functions: Table::new(),
            mappings: Table::new(),
            locations: Table::new(),
            stacks: Table::new(),
            links: Table::new(),
            attributes: Table::new(),
        }
    }

    fn sample(&mut self, sample: &'a Sample, value: i64) -> proto::Sample {
        let mut converted = proto::Sample {
            stack_index: self.stack(&sample.stack),
            values: vec![value],
            ..Default::default()
        };
        if let Some(span) = sample.span.as_deref() {
            converted.link_index = self.link(span.trace_id, span.span_id);
            let fields = span.fields.iter().map(|(name, value)| (&**name, &**value));
            converted.attribute_indices = std::iter::once(("span_name", &*span.name))
                .chain(fields)
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| self.attribute(name, value))
                .collect();
        }
        converted
    }

    fn link(&mut self, trace_id: Option<u128>, span_id: Option<u64>) -> i32 {
        let Some(span_id) = span_id else { return 0 };
        let key = (trace_id.unwrap_or(0), span_id);
        if let Some(at) = self.links.find(&key) {
            return at;
        }
        let trace_id = trace_id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
        self.links.add(key, proto::Link { trace_id, span_id: span_id.to_be_bytes().to_vec() })
    }

    fn attribute(&mut self, name: &'a str, value: &'a str) -> i32 {
        if let Some(at) = self.attributes.find(&(name, value)) {
            return at;
        }
        let entry = proto::KeyValueAndUnit {
            key_strindex: self.string(name),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
            unit_strindex: 0,
        };
        self.attributes.add((name, value), entry)
    }

    fn stack(&mut self, stack: &'a [u32]) -> i32 {
        if let Some(at) = self.stacks.find(&stack) {
            return at;
        }
        let location_indices = stack.iter().map(|&at| self.location(at)).collect();
        self.stacks.add(stack, proto::Stack { location_indices })
    }

    fn location(&mut self, index: u32) -> i32 {
        if let Some(at) = self.locations.find(&index) {
            return at;
        }
        let profile = self.profile;
        let Location { address, mapping, lines } = &profile.locations[index as usize];
        let lines = lines
            .iter()
            .map(|line| proto::Line {
                function_index: self.function(&line.function, line.file.as_deref().unwrap_or_default()),
                line: line.line.into(),
                column: 0,
            })
            .collect();
        let mapping_index = mapping.map_or(0, |at| self.mapping(at));
        let entry = proto::Location { mapping_index, address: *address, lines, ..Default::default() };
        self.locations.add(index, entry)
    }

    fn function(&mut self, name: &'a str, file: &'a str) -> i32 {
        if let Some(at) = self.functions.find(&(name, file)) {
            return at;
        }
        let name_strindex = self.string(name);
        let entry = proto::Function {
            name_strindex,
            system_name_strindex: name_strindex,
            filename_strindex: self.string(file),
            start_line: 0,
        };
        self.functions.add((name, file), entry)
    }

    fn mapping(&mut self, index: u32) -> i32 {
        if let Some(at) = self.mappings.find(&index) {
            return at;
        }
        let profile = self.profile;
        let Mapping { start, end, file_offset, path, build_id, .. } = &profile.mappings[index as usize];
        let mut entry = proto::Mapping {
            memory_start: *start,
            memory_limit: *end,
            file_offset: *file_offset,
            filename_strindex: self.string(path),
            attribute_indices: Vec::new(),
        };
        if !build_id.is_empty() {
            entry.attribute_indices.push(self.attribute("process.executable.build_id.gnu", build_id));
        }
        self.mappings.add(index, entry)
    }

    fn string(&mut self, text: &'a str) -> i32 {
        match self.strings.find(&text) {
            Some(at) => at,
            None => self.strings.add(text, text.to_owned()),
        }
    }

    fn dictionary(self) -> proto::ProfilesDictionary {
        proto::ProfilesDictionary {
            mapping_table: self.mappings.entries,
            location_table: self.locations.entries,
            function_table: self.functions.entries,
            link_table: self.links.entries,
            string_table: self.strings.entries,
            attribute_table: self.attributes.entries,
            stack_table: self.stacks.entries,
        }
    }
}

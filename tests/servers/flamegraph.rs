//! The flame graph in a Pyroscope answer.

use serde_json::Value;

use super::{items, number};

/// A flame graph: each node's functions from the root down, and its own value.
#[derive(Debug, Default)]
pub struct Flamegraph {
    pub total: u64,
    pub stacks: Vec<(Vec<String>, u64)>,
}

/// A node of the level above: where it begins and ends, and the functions down to it.
struct Node {
    begin: u64,
    end: u64,
    stack: Vec<String>,
}

impl Flamegraph {
    /// Reads `{ names, levels, total }`. A level lists its nodes by fours: how far after the end of the
    /// one before it begins, its total, its own value, its name.
    pub fn read(answer: &Value) -> Self {
        let names = items(&answer["names"]);
        let mut graph = Self::default();
        let mut above: Vec<Node> = Vec::new();
        for (depth, level) in items(&answer["levels"]).iter().enumerate() {
            let values: Vec<u64> = items(&level["values"]).iter().map(number).collect();
            let mut nodes = Vec::new();
            let mut at = 0;
            for &[gap, total, own, name] in values.as_chunks().0 {
                let (begin, end) = (at + gap, at + gap + total);
                at = end;
                let mut stack = Vec::new();
                if depth > 0 {
                    let parent = above.iter().find(|node| (node.begin..node.end).contains(&begin));
                    stack.clone_from(&parent.expect("a node lies within one above it").stack);
                    stack.push(names[name as usize].as_str().expect("a name").to_owned());
                } else {
                    graph.total = total;
                }
                if own > 0 {
                    graph.stacks.push((stack.clone(), own));
                }
                nodes.push(Node { begin, end, stack });
            }
            above = nodes;
        }
        assert_eq!(graph.total, graph.stacks.iter().map(|(_, own)| own).sum::<u64>(), "it adds up");
        graph
    }
}

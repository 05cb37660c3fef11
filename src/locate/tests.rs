use std::path::PathBuf;

use tracing::Instrument as _;

use super::*;
use crate::aggregate::{Entry, Tally};
use crate::modules::Modules;
use crate::regs::Registers;
use crate::sample::Context;
use crate::unwind::{ScratchPool, walk};

#[inline(never)]
fn in_this_file() {
    std::hint::black_box(());
}

fn modules() -> Vec<Arc<Module>> {
    let mut modules = Modules::default();
    modules.refresh();
    modules.list().to_vec()
}

fn generation(modules: Vec<Arc<Module>>, stack: &[u64]) -> Generation {
    let entry = Entry {
        context: Context::Outside,
        complete: true,
        ancestors: Box::new([]),
        stack: stack.into(),
        tally: Tally { count: 1, weight: 1 },
    };
    Generation { modules, entries: vec![entry] }
}

/// The frames of one stack, outermost first, and the tables.
fn frames(
    locations: &mut Locations,
    modules: Vec<Arc<Module>>,
    stack: &[u64],
) -> (String, Vec<Location>, Vec<Mapping>) {
    locations.begin();
    locations.resolve(&generation(modules, stack), None);
    let indices = locations.stack(stack, true, &["checkout".into(), "price".into()]);
    let (table, mappings) = locations.take();
    let names = indices.iter().rev().flat_map(|&at| table[at as usize].lines.iter().rev());
    (names.map(|line| &*line.function).collect::<Vec<_>>().join("\n"), table, mappings)
}

fn fake(file: &str) -> Arc<Module> {
    Arc::new(Module {
        file: Some(PathBuf::from(file)),
        name: file.into(),
        build_id: vec![0xab, 0x01],
        text: 0x1_0000..0x2_0000,
        file_offset: 0x1000,
        bias: 0xf000,
    })
}

#[test]
fn a_function_of_the_program_has_its_name_file_and_line() {
    let address = in_this_file as *const () as u64;
    let (stack, table, mappings) = frames(&mut Locations::new(false), modules(), &[address]);
    assert_eq!(stack, "span:checkout\nspan:price\npollscope::locate::tests::in_this_file");
    let code = table.iter().find(|location| location.address == address).expect("its location");
    let line = code.lines.last().expect("a line");
    assert!(line.file.as_deref().is_some_and(|file| file.ends_with("src/locate/tests.rs")), "{line:?}");
    assert!((8..20).contains(&line.line), "{line:?}");
    let mapping = &mappings[code.mapping.expect("a mapping") as usize];
    assert!(mapping.has_functions && mapping.has_lines && mapping.path.contains("pollscope"), "{mapping:?}");
    assert!((mapping.start..mapping.end).contains(&address));
}

/// The stack of the caller, leaf first, without this function.
#[inline(never)]
fn stack_here() -> Vec<u64> {
    let mut modules = Modules::default();
    modules.refresh();
    let (pool, code) = (ScratchPool::new(1, 256), modules.code_map());
    let mut taken = pool.take(0).expect("a free area");
    // SAFETY: the stack of this very thread, bounded by a map of its mappings made before.
    let walk = unsafe { walk(Registers::here(), &code, 0, taken.scratch(), 256) };
    assert!(walk.complete);
    let start = stack_here as *const () as u64;
    let frames = &taken.scratch().frames[..walk.depth];
    frames.iter().copied().skip_while(|address| !(start..start + 4096).contains(address)).skip(1).collect()
}

async fn price() -> Vec<u64> {
    tokio::task::yield_now().await;
    stack_here()
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_tokio_runs_comes_right_after_the_spans() {
    let read = |stack: Vec<u64>| frames(&mut Locations::new(false), modules(), &stack).0;
    let spans = "span:checkout\nspan:price\n";
    let here = "pollscope::locate::tests::";
    let test = format!("{here}code_that_tokio_runs_comes_right_after_the_spans");
    let spawned = tokio::spawn(price()).await.expect("a stack");
    assert_eq!(read(spawned.clone()), format!("{spans}[tokio worker]\n{here}price"));
    let instrumented = price().instrument(tracing::info_span!("price"));
    let instrumented = tokio::spawn(instrumented).await.expect("a stack");
    assert_eq!(read(instrumented), format!("{spans}[tokio worker]\n{here}price"));
    let blocking = tokio::task::spawn_blocking(|| std::hint::black_box(stack_here())).await.expect("a stack");
    assert_eq!(read(blocking), format!("{spans}[tokio blocking]\n{test}"));
    let thread = std::thread::spawn(|| std::hint::black_box(stack_here())).join().expect("a stack");
    assert_eq!(read(thread), format!("{spans}[thread]\n{test}"));
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { tokio::spawn(price()).await })
    });
    let current = read(thread.join().expect("a result").expect("a stack"));
    assert!(current.starts_with(&format!("{spans}[thread]\n{test}\ntokio::runtime::")), "{current}");
    let raw = frames(&mut Locations::new(true), modules(), &spawned).0;
    assert!(raw.contains("tokio::runtime::task::") && raw.ends_with(&format!("\n{here}price")), "{raw}");
}

#[inline(always)]
fn inlined(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

#[inline(never)]
fn holder(n: u64) -> u64 {
    inlined(n) * 2
}

#[test]
fn an_inlined_function_comes_before_the_one_that_holds_it() {
    let start = holder as *const () as u64;
    let stack: Vec<u64> = (start..start + 64).collect();
    let (_, table, _) = frames(&mut Locations::new(true), modules(), &stack);
    let inside =
        table.iter().find(|location| location.lines[0].function.ends_with("::inlined")).expect("inlined");
    let [inner, outer] = &inside.lines[..] else { panic!("{inside:?}") };
    assert_eq!(&*outer.function, "pollscope::locate::tests::holder");
    assert!(inner.line < outer.line && inner.file == outer.file, "{inside:?}");
}

#[test]
fn inlined_code_of_the_program_is_kept_when_what_holds_it_is_not() {
    let line = |function: &str| Line { function: function.into(), file: None, line: 0 };
    let lines = ["shop::price", "tokio::runtime::task::raw::poll", "clone3"];
    let lines = lines.map(|name| (line(name), Role::of(name)));
    let found = Arc::new(Found { lines: Box::new(lines), named: true });
    let mut locations = Locations::new(false);
    let (at, leaf) = (locations.profile.code(None, 0x10, &found, 3), locations.named("leaf"));
    let mut stack = vec![leaf, at];
    locations.collapse_entry(&mut stack);
    let read = |at: &u32| locations.profile.locations[*at as usize].clone();
    let stack: Vec<Location> = stack.iter().map(read).collect();
    assert_eq!(stack[1], Location { address: 0x10, mapping: None, lines: vec![line("shop::price")] });
    assert_eq!(stack[2].lines, [line("[tokio]")]);
}

#[test]
fn a_function_of_the_c_library_and_the_vdso() {
    let getpid = libc::getpid as *const () as u64;
    let (stack, ..) = frames(&mut Locations::new(true), modules(), &[getpid]);
    assert!(stack.contains("getpid"), "{stack}");
    let Some(vdso) = modules().into_iter().find(|module| module.file.is_none()) else { return };
    let whole: Vec<u64> = vdso.text.clone().step_by(16).collect();
    let (stack, _, mappings) = frames(&mut Locations::new(true), modules(), &whole);
    assert!(stack.contains("clock_gettime"), "{stack}");
    assert_eq!(&*mappings[0].path, "[vdso]");
}

#[test]
fn a_file_that_is_gone_is_noted_once() {
    let mut locations = Locations::new(false);
    let gone = fake("/nowhere/libgone.so");
    let (stack, table, mappings) = frames(&mut locations, vec![gone.clone()], &[0x1_0010, 0x1_0020]);
    assert_eq!(stack, "span:checkout\nspan:price\nlibgone.so!0x1020\nlibgone.so!0x1010");
    assert_eq!(table[0].address, 0x1_0010);
    let mapping = Mapping {
        start: 0x1_0000,
        end: 0x2_0000,
        file_offset: 0x1000,
        path: "/nowhere/libgone.so".into(),
        build_id: "ab01".into(),
        has_functions: false,
        has_lines: false,
    };
    assert_eq!(mappings, [mapping]);
    let notes = locations.take_notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("names of /nowhere/libgone.so cannot be read: No such file"), "{notes:?}");
    frames(&mut locations, vec![gone], &[0x1_0030]);
    assert_eq!(locations.take_notes(), Vec::<String>::new());
}

#[test]
fn an_address_may_be_in_an_object_loaded_since() {
    let mut locations = Locations::new(true);
    locations.begin();
    let (now, later) = (generation(vec![], &[0x1_0010, 0x99]), generation(vec![fake("/nowhere/a.so")], &[]));
    locations.resolve(&now, Some(&later));
    let stack = locations.stack(&[0x1_0010, 0x99], false, &[]);
    let (table, mappings) = locations.take();
    let names: Vec<&str> = stack.iter().map(|&at| &*table[at as usize].lines[0].function).collect();
    assert_eq!(names, ["a.so!0x1010", "[unknown]!0x99", INCOMPLETE]);
    assert_eq!(mappings.len(), 1);
}

#[test]
fn an_object_at_the_place_of_another_has_its_own_names() {
    let mut locations = Locations::new(true);
    locations.begin();
    let mut names = Vec::new();
    for file in ["/nowhere/a.so", "/nowhere/b.so"] {
        locations.resolve(&generation(vec![fake(file)], &[0x1_0010]), None);
        names.extend(locations.stack(&[0x1_0010], true, &[]));
    }
    let (table, _) = locations.take();
    let names: Vec<&str> = names.iter().map(|&at| &*table[at as usize].lines[0].function).collect();
    assert_eq!(names, ["a.so!0x1010", "b.so!0x1010"]);
}

#[test]
fn kernel_functions_are_marked_and_come_last() {
    let list = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let known =
        list.lines().find(|line| line.ends_with(" ksys_read")).and_then(|line| line.split(' ').next());
    let address = known.and_then(|address| u64::from_str_radix(address, 16).ok()).unwrap_or(0);
    if address == 0 {
        println!("skipped: /proc/kallsyms shows no addresses here");
        return;
    }
    let user = in_this_file as *const () as u64;
    let (stack, _, mappings) = frames(&mut Locations::new(false), modules(), &[address + 4, user]);
    assert_eq!(stack, "span:checkout\nspan:price\npollscope::locate::tests::in_this_file\nksys_read_[k]");
    assert_eq!(&*mappings.last().expect("two").path, "[kernel.kallsyms]");
}

#[test]
fn a_kernel_without_names_is_one_frame() {
    let mut locations = Locations::new(false);
    locations.kernel_hidden = true;
    let (stack, table, _) = frames(&mut locations, vec![], &[1 << 63, (1 << 63) + 9, 0x77]);
    assert_eq!(stack, "span:checkout\nspan:price\n[unknown]!0x77\n[kernel]");
    assert_eq!(table.iter().filter(|location| location.mapping.is_some()).count(), 0);
}

#[test]
fn an_address_is_one_location_however_many_stacks_hold_it() {
    let address = in_this_file as *const () as u64;
    let mut locations = Locations::new(false);
    locations.begin();
    locations.resolve(&generation(modules(), &[address]), None);
    let first = locations.stack(&[address], true, &[]);
    locations.resolve(&generation(modules(), &[address]), None);
    assert_eq!(locations.stack(&[address, address], true, &[]), [first[0], first[0]]);
    assert_eq!(locations.take().0.len(), 1);
}

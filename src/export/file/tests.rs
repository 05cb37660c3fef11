//! What is in the directory afterwards.

use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::export::sample;
use crate::profile::ProfileKind;

/// A directory of its own for a test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pollscope-file-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn window(seconds: u64) -> Profile {
    sample::profile(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn a_window_is_a_gzipped_pprof() {
    let dir = Dir::new();
    let mut file = File::new(dir.0.join("deep/down"));
    file.check().unwrap();
    file.export(&window(1)).unwrap();
    let path = dir.0.join("deep/down/shop-19700101T000001.000Z-cpu.pb.gz");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, crate::pprof::encode(&window(1)));
}

#[test]
fn nothing_is_overwritten() {
    let dir = Dir::new();
    let taken = dir.0.join("shop-19700101T000001.000Z-cpu.pb.gz");
    fs::write(&taken, "mine").unwrap();
    for _ in 0..2 {
        File::new(&dir.0).export(&window(1)).unwrap();
    }
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
    let expected = [
        "shop-19700101T000001.000Z-cpu-2.pb.gz",
        "shop-19700101T000001.000Z-cpu-3.pb.gz",
        "shop-19700101T000001.000Z-cpu.pb.gz",
    ];
    assert_eq!(dir.names(), expected);
}

#[test]
fn what_a_killed_process_left_while_it_tried_is_no_obstacle() {
    let dir = Dir::new();
    fs::write(dir.0.join(format!(".pollscope-{}.part", std::process::id())), "").unwrap();
    File::new(&dir.0).check().unwrap();
    assert!(dir.names().is_empty());
}

#[test]
fn writers_of_one_directory_share_it() {
    let dir = Dir::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| File::new(&dir.0).export(&window(1)).unwrap()));
        }
    });
    assert_eq!(dir.names().len(), 40);
}

#[test]
fn the_oldest_windows_are_removed() {
    let dir = Dir::new();
    let foreign =
        ["notes.txt", "shop-19700101T000000.000Z-cpu.pb.gz.bak", "till-19700101T000000.000Z-cpu.pb.gz"];
    let left_by_a_killed_process = ".shop-19700101T000000.000Z-cpu.pb.gz.part";
    for name in foreign.iter().chain([&left_by_a_killed_process]) {
        fs::write(dir.0.join(name), "").unwrap();
    }
    let mut file = File::new(&dir.0).keep(2);
    for seconds in [1, 2, 2, 3] {
        file.export(&window(seconds)).unwrap();
        file.export(&Profile { kind: ProfileKind::EverySpan, ..window(seconds) }).unwrap();
    }
    let mut expected = foreign.to_vec();
    expected.extend([
        "shop-19700101T000002.000Z-cpu-2.pb.gz",
        "shop-19700101T000003.000Z-cpu.pb.gz",
        "shop-19700101T000002.000Z-span-2.pb.gz",
        "shop-19700101T000003.000Z-span.pb.gz",
    ]);
    expected.sort();
    assert_eq!(dir.names(), expected);
}

#[test]
fn an_empty_window_leaves_no_file() {
    let dir = Dir::new();
    let mut profile = window(1);
    profile.samples.clear();
    File::new(&dir.0).export(&profile).unwrap();
    assert!(dir.names().is_empty());
}

#[test]
fn a_directory_below_a_file_is_an_error_that_says_so() {
    let dir = Dir::new();
    fs::write(dir.0.join("file"), "").unwrap();
    for path in [dir.0.join("file"), dir.0.join("file/below")] {
        let mut file = File::new(&path);
        for error in [file.check().unwrap_err(), file.export(&window(1)).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Io);
            let text = error.to_string();
            let start = format!("cannot create the directory {}: ", path.display());
            assert!(text.starts_with(&start), "{text}");
            assert!(text.ends_with("; a part of that path is a file, choose another directory"), "{text}");
        }
    }
    assert_eq!(dir.names(), ["file"]);
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let dir = Dir::new();
    let file = File::new(&dir.0);
    let full = |part: &mut fs::File| {
        part.write_all(b"the first half")?;
        fs::File::options().write(true).open("/dev/full")?.write_all(b"the other")
    };
    let error = file.place(&Series::of(&window(1)), &window(1), full).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write {}/shop-19700101T000001.000Z-cpu.pb.gz: No space left on device (os error 28); \
             free some space, or keep fewer windows",
            dir.0.display()
        )
    );
    assert!(dir.names().is_empty());
}

#[test]
fn checking_leaves_nothing_behind() {
    let dir = Dir::new();
    File::new(&dir.0).check().unwrap();
    assert!(dir.names().is_empty());
    assert_eq!(File::new(&dir.0).keep(0).check().unwrap_err().kind(), ErrorKind::Config);
}

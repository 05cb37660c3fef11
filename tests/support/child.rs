//! A test's second process: the test binary itself, once more, in a part of its own.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

const PART: &str = "POLLSCOPE_TEST_PART";

/// Which part this process is to play, if it is a child.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// The test `test` as a process of its own that plays `part`.
pub fn command(test: &str, part: &str) -> Command {
    // Not by its path: it may lie where an ordinary user cannot go.
    let mut command = Command::new("/proc/self/exe");
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PART, part);
    command
}

/// As [`command`], as an ordinary user; `None` where this process cannot become one.
pub fn command_as_nobody(test: &str, part: &str) -> Option<Command> {
    // SAFETY: asks only.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can become an ordinary user");
        return None;
    }
    let mut command = command(test, part);
    command.uid(65534).gid(65534).current_dir("/");
    Some(command)
}

/// Sets a resource's limit in the child.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, most: u64) {
    // SAFETY: between fork and exec, one system call and no allocation.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            match libc::setrlimit(resource, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
}

/// Runs it to its end; what it wrote on stdout and stderr.
pub fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("a child");
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output, text.concat())
}

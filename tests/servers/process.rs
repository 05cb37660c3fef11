//! A server as a child process, on loopback, in a directory of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A running server; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `directory`, its output in a file there.
    pub fn start(command: &mut Command, directory: &Path, name: &str) -> Self {
        let log = directory.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command.current_dir(directory).stdout(open()).stderr(open()).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{name} does not start: {error}")), log }
    }

    /// Panics with the end of the log when the server is gone.
    pub fn check(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            panic!("{} ended with {status}:\n{}", self.log.display(), end.join("\n"));
        }
    }

    /// Asks the server to end, and waits until it has.
    pub fn terminate(mut self) {
        // SAFETY: a signal to our own child, which is not yet waited for, so that the id is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        self.child.wait().expect("an own child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that are free now, each another one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let open: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port on loopback"));
    open.map(|listener| listener.local_addr().expect("its address").port())
}

/// A file of the demo, which the servers here run with.
pub fn demo_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana").join(name)
}

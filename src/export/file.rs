//! Writes profiles into a directory, one file a window.
//!
//! A file appears under its name when it is complete, and nothing that exists is overwritten. Only
//! files that this exporter's own names fit are ever removed.

mod name;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, ErrorKind as Io, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use self::name::Series;
use super::Export;
use crate::error::{Error, ErrorKind};
use crate::profile::Profile;

/// An hour of windows of 10 s.
const DEFAULT_KEEP: usize = 360;

/// Writes profiles into a directory: one gzipped pprof a window, such as
/// `checkout-20261129T185232.123Z-cpu.pb.gz`.
///
/// ```
/// let files = pollscope::File::new("/var/tmp/profiles").keep(60);
/// ```
///
/// The name says the service, when the window began (UTC) and the profile's type, so names in
/// order are windows in order. `go tool pprof` and all else that reads pprof opens them. A window
/// without a sample leaves no file. The directory is made when it does not exist.
#[derive(Clone, Debug)]
pub struct File {
    dir: PathBuf,
    keep: usize,
}

impl File {
    /// Writes into the directory `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), keep: DEFAULT_KEEP }
    }

    /// Sets how many windows stay in the directory, for each service and profile type.
    ///
    /// After each window the oldest beyond it are removed, those of earlier runs and of other
    /// processes of the same service included. More need more disk: a window takes some 10 to 100 KiB.
    ///
    /// 360 by default, which is an hour of windows of 10 s.
    pub fn keep(mut self, windows: usize) -> Self {
        self.keep = windows;
        self
    }
}

impl Export for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn check(&self) -> Result<(), Error> {
        if self.keep == 0 {
            return Err(Error::new(ErrorKind::Config, "a File that keeps 0 windows would keep nothing"));
        }
        self.create_dir()?;
        // Whoever tries at the same time, or was killed while it did, may have made the same file.
        let probe = self.dir.join(format!(".pollscope-{}.part", std::process::id()));
        fs::File::create(&probe).map_err(|error| cannot("write into", &self.dir, &error))?;
        match fs::remove_file(&probe) {
            Err(error) if error.kind() != Io::NotFound => Err(cannot("remove", &probe, &error)),
            _ => Ok(()),
        }
    }

    fn export(&mut self, profile: &Profile) -> Result<(), Error> {
        if profile.samples.is_empty() {
            return Ok(());
        }
        self.create_dir()?;
        let series = Series::of(profile);
        self.place(&series, profile, |file| {
            let mut gzip = GzEncoder::new(file, Compression::default());
            gzip.write_all(&crate::pprof::encode(profile))?;
            gzip.finish().map(drop)
        })?;
        self.remove_oldest(&series)
    }
}

impl File {
    fn create_dir(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|error| cannot("create the directory", &self.dir, &error))
    }

    /// Has `write` fill a file, and gives it a name that no file has.
    fn place(
        &self,
        series: &Series,
        profile: &Profile,
        write: impl FnOnce(&mut fs::File) -> io::Result<()>,
    ) -> Result<(), Error> {
        for clash in 0.. {
            let name = series.name(profile.start, clash);
            let path = self.dir.join(&name);
            // Who has the part file owns the name: of several processes each finds its own.
            let mut part = match Part::create(self.dir.join(name::part(&name))) {
                Ok(part) => part,
                Err(error) if error.kind() == Io::AlreadyExists => continue,
                Err(error) => return Err(cannot("write", &path, &error)),
            };
            if path.exists() {
                continue;
            }
            return write(&mut part.file)
                .and_then(|()| part.finish(&path))
                .map_err(|error| cannot("write", &path, &error));
        }
        unreachable!("no directory holds that many files")
    }

    fn remove_oldest(&self, series: &Series) -> Result<(), Error> {
        let read = |error: &io::Error| cannot("read the directory", &self.dir, error);
        let mut complete = Vec::new();
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| read(&error))? {
            let name = entry.map_err(|error| read(&error))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(order) = series.order(name) {
                complete.push((order, name.to_owned()));
            } else if let Some(order) = name::complete(name).and_then(|name| series.order(name)) {
                parts.push((order, name.to_owned()));
            }
        }
        complete.sort();
        let kept = complete.split_off(complete.len().saturating_sub(self.keep));
        // A process that was killed while it wrote has left a part. Only what is older than all that
        // may be kept is surely not being written at this moment.
        let first = kept.first().filter(|_| kept.len() == self.keep);
        let stale = parts.into_iter().filter(|(order, _)| first.is_some_and(|(first, _)| order < first));
        for (_, name) in complete.into_iter().chain(stale) {
            let path = self.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != Io::NotFound => return Err(cannot("remove", &path, &error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A file under way, gone when it is dropped before it is finished.
struct Part {
    path: PathBuf,
    file: fs::File,
    is_finished: bool,
}

impl Part {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = fs::File::create_new(&path)?;
        Ok(Self { path, file, is_finished: false })
    }

    fn finish(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // What has this name after that is another writer's.
        if !self.is_finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    let advice = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => "; free some space, or keep fewer windows",
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            "; let this user write there, or choose another directory"
        }
        Io::NotADirectory | Io::AlreadyExists => "; a part of that path is a file, choose another directory",
        _ => "",
    };
    Error::new(ErrorKind::Io, format!("cannot {what} {}: {error}{advice}", path.display()))
}

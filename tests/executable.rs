//! Files that a test makes in order to run them.
//!
//! The kernel executes no file that somebody has open for writing (ETXTBSY). Were it this process that writes one, every
//! child that another test's thread forks meanwhile would have it open too, until that child executes its own program. So
//! a process of its own writes it, which forks nobody and is gone when the file is used.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

/// A copy of a program, for everybody to run.
pub(crate) fn copy_executable(from: &Path, to: &Path) {
    write(File::open(from).unwrap(), to);
}

/// A program of these bytes, for everybody to run.
pub(crate) fn executable(path: &Path, content: &[u8]) {
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(content).unwrap();
    source.rewind().unwrap();
    write(source, path);
}

fn write(source: File, path: &Path) {
    // The redirection makes the file while it can be written, and only then may it be run.
    let status = Command::new("sh")
        .args(["-c", "cat >\"$1\" && exec chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(source)
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", path.display());
}

//! A disk of a chosen size, so that it can be full.

use super::process::Setup;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs; unmounted when it is dropped.
pub(crate) struct SmallDisk {
    at: PathBuf,
    /// The place it is mounted in is removed after it is unmounted.
    _room: Setup,
}

impl SmallDisk {
    /// Mounts one of `mib` MiB.
    ///
    /// # Errors
    /// Why this process may not mount.
    pub(crate) fn mount(room: &Setup, mib: u64) -> Result<SmallDisk, String> {
        let at = room.room().join("disk");
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={mib}m,mode=0755");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ringest-test"]).arg(&at).output();
        let output = output.map_err(|error| format!("mount cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(SmallDisk { at, _room: room.clone() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Takes `mib` MiB away; [`free`](Self::free) gives them back.
    pub(crate) fn occupy(&self, mib: u64) {
        let mut file = File::create(self.ballast()).unwrap();
        let piece = vec![0x42; 1 << 20];
        (0..mib).for_each(|_| file.write_all(&piece).expect("the ballast fits"));
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is still there must not keep the mount from going.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

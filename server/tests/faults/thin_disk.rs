//! A disk that promises more than it has: a file system on a loop device on a file that a smaller tmpfs holds. Writes
//! succeed into the page cache, and fail when they reach the device; a sync that failed is followed by one that reports
//! success; what was not stored reads as zeros once the cache is gone. Only root can make one.

use crate::support::process::Setup;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Taken apart when it is dropped.
pub(crate) struct ThinDisk {
    backing: PathBuf,
    at: PathBuf,
    device: Option<String>,
    is_mounted: bool,
    has_backing: bool,
    /// The place it lies in is removed last.
    _room: Setup,
}

impl ThinDisk {
    /// One that says it has 512 MiB and has `mib`.
    ///
    /// # Errors
    /// Why there is none here.
    pub(crate) fn mount(room: &Setup, mib: u64) -> Result<ThinDisk, String> {
        let (backing, at) = (room.room().join("backing"), room.room().join("thin"));
        fs::create_dir_all(&backing).unwrap();
        fs::create_dir_all(&at).unwrap();
        let mut disk =
            ThinDisk { backing, at, device: None, is_mounted: false, has_backing: false, _room: room.clone() };
        let options = format!("size={mib}m,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ringest-test"]).arg(&disk.backing))?;
        disk.has_backing = true;
        let image = disk.backing.join("image");
        run(Command::new("truncate").args(["-s", "512M"]).arg(&image))?;
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&image))?;
        disk.device = Some(device.trim().to_owned());
        // A request that fits in part is reported as done by the loop driver, which no disk would do. So a request is a
        // page: it fits or it does not.
        let queue =
            Path::new("/sys/block").join(device.trim().trim_start_matches("/dev/")).join("queue/max_sectors_kb");
        fs::write(&queue, "4").map_err(|error| format!("{}: {error}", queue.display()))?;
        // Without a journal, which would fail with the rest and end all writing for good.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", device.trim()]))?;
        disk.attach()?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Gives it all it promises.
    pub(crate) fn thicken(&self) {
        run(Command::new("mount").args(["-o", "remount,size=600m"]).arg(&self.backing)).unwrap();
    }

    /// Takes it out and puts it in again: what was in the page cache alone is gone.
    pub(crate) fn replug(&mut self) {
        run(Command::new("umount").arg(&self.at)).unwrap();
        self.is_mounted = false;
        self.attach().unwrap();
    }

    fn attach(&mut self) -> Result<(), String> {
        let device = self.device.as_deref().expect("it has a device");
        run(Command::new("mount").args(["-t", "ext4", "-o", "errors=continue", device]).arg(&self.at))?;
        self.is_mounted = true;
        Ok(())
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        // Lazily: a server that is still there must not keep a mount from going.
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        if self.has_backing {
            let _ = Command::new("umount").arg("-l").arg(&self.backing).status();
        }
    }
}

/// What a command prints.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

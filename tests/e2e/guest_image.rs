//! What a guest boots: Debian's cloud kernel as installed, and an initramfs that is built here: busybox, the modules
//! of virtio-net, and an `init` that runs commands from the serial line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `console` shows the messages of a kernel that panics. `edd=off` stops the kernel from asking the BIOS for disks,
/// which takes seconds; the rest saves another second.
pub(crate) const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 edd=off ipv6.disable=1 nokaslr mitigations=off no_timer_check tsc=reliable random.trust_cpu=on";

/// Loaded with their dependencies, unless they are built in.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Reports that it is ready, then runs line by line what comes, and reports the status of each. (busybox's own `read`
/// loses half a line when a background command ends.) An abandoned guest powers itself off.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
echo 1 > /proc/sys/kernel/printk
while read -r module; do insmod "/modules/$module"; done < /modules/order
(sleep 600; poweroff -f) &
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
stty raw -echo
printf '\n<end 0>\n'
while line=$(head -n 1) && [ -n "$line" ]; do
    eval "$line" < /dev/null
    printf '\n<end %s>\n' "$?"
done
poweroff -f
"#;

/// A kernel and its initramfs.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Vec<u8>,
}

/// Built once; the error names what is missing.
pub(crate) fn image() -> Result<&'static Image, String> {
    static IMAGE: OnceLock<Result<Image, String>> = OnceLock::new();
    IMAGE.get_or_init(make).as_ref().map_err(Clone::clone)
}

/// Why guests cannot run here.
pub(crate) fn what_is_missing() -> Option<String> {
    let emulator = Command::new("qemu-system-x86_64").arg("--version").output();
    let emulator = emulator.is_ok_and(|output| output.status.success());
    let missing = if emulator { image().err() } else { Some("qemu-system-x86_64 (package qemu-system-x86)".to_owned()) };
    missing.map(|missing| format!("no guest can be booted: {missing}"))
}

fn make() -> Result<Image, String> {
    let (kernel, modules) = kernel().ok_or("a kernel and its modules (package linux-image-cloud-amd64)")?;
    let busybox = busybox().ok_or("a busybox that needs no library (package busybox-static)")?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "www", "modules"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add("bin/busybox", 0o100_755, &busybox);
    let mut order = String::new();
    for path in in_order(&modules).map_err(|error| format!("the modules of {}: {error}", modules.display()))? {
        let name = path.file_stem().and_then(|name| name.to_str()).ok_or("a module without a name")?;
        // The module name of `virtio_net.ko` or `virtio_net.ko.xz`.
        let name = name.trim_end_matches(".ko");
        let module = unpacked(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        archive.add(&format!("modules/{name}"), 0o100_644, &module);
        order.push_str(name);
        order.push('\n');
    }
    archive.add("modules/order", 0o100_644, order.as_bytes());
    Ok(Image { kernel, initramfs: archive.finish() })
}

/// The newest kernel that has its modules, and their directory.
fn kernel() -> Option<(PathBuf, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir("/boot").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    found.retain(|name| name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64"));
    found.sort();
    found.iter().rev().find_map(|name| {
        let modules = Path::new("/lib/modules").join(name.strip_prefix("vmlinuz-")?);
        modules.join("modules.dep").exists().then(|| (Path::new("/boot").join(name), modules))
    })
}

fn busybox() -> Option<Vec<u8>> {
    let loader = b"/ld-linux";
    let is_alone = |bytes: &Vec<u8>| !bytes.windows(loader.len()).any(|window| window == loader);
    ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok().filter(is_alone))
}

/// The files of [`MODULES`], each after its dependencies (modules.dep(5)).
fn in_order(modules: &Path) -> io::Result<Vec<PathBuf>> {
    let list = fs::read_to_string(modules.join("modules.dep"))?;
    let mut order: Vec<PathBuf> = Vec::new();
    for wanted in MODULES {
        let is_it =
            |path: &str| Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().split('.').next() == Some(wanted));
        let Some((path, needs)) = list.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| is_it(path)) else {
            continue;
        };
        // modules.dep lists the first dependency last.
        for path in needs.split_whitespace().rev().chain([path]) {
            let path = modules.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path),
    };
    let output = Command::new(tool).arg("-dc").arg(path).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(format!("{tool} ended with {}", output.status)))
    }
}

/// A cpio archive as the kernel unpacks it ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: usize, data: &[u8]) {
        self.files += 1;
        // Inode, mode, owner, group, links, time, length, four device numbers, length of the name, checksum.
        let fields = [self.files, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

//! `vswitchctl`, which is of another package, so that `cargo test --test e2e` alone does not build it.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// Beside the daemon, as of the same build.
static VSWITCHCTL: LazyLock<String> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_BIN_EXE_vswitchd")).with_file_name("vswitchctl");
    path.into_os_string().into_string().expect("a target directory in UTF-8")
});

/// The path of `vswitchctl`.
pub(crate) fn vswitchctl() -> &'static str {
    &VSWITCHCTL
}

/// Builds `vswitchctl` if Cargo runs this test. Started by hand, the test takes the program that is there.
pub(crate) fn build() {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let built = Path::new(vswitchctl()).parent().expect("a directory");
    let target = built.parent().expect("a target directory");
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--bin", "vswitchctl"]);
    command.args(["--profile", profile]).arg("--target-dir").arg(target);
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "vswitchctl cannot be built: {status}");
}

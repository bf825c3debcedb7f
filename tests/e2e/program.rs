//! `vswitchctl` and `vswitch-plugin`, which are of other packages, so that `cargo test --test e2e` alone does not build them.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

static VSWITCHCTL: LazyLock<String> = LazyLock::new(|| beside_the_daemon("vswitchctl"));
static PLUGIN: LazyLock<String> = LazyLock::new(|| beside_the_daemon("vswitch-plugin"));

/// The path of a program of the same build.
fn beside_the_daemon(name: &str) -> String {
    let path = Path::new(env!("CARGO_BIN_EXE_vswitchd")).with_file_name(name);
    path.into_os_string().into_string().expect("a target directory in UTF-8")
}

/// The path of `vswitchctl`.
pub(crate) fn vswitchctl() -> &'static str {
    &VSWITCHCTL
}

/// The path of `vswitch-plugin`.
pub(crate) fn plugin() -> &'static str {
    &PLUGIN
}

/// Builds both if Cargo runs this test. Started by hand, the test takes the programs that are there.
pub(crate) fn build() {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let built = Path::new(vswitchctl()).parent().expect("a directory");
    let target = built.parent().expect("a target directory");
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--bin", "vswitchctl", "--bin", "vswitch-plugin"]);
    command.args(["--profile", profile]).arg("--target-dir").arg(target);
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "vswitchctl and vswitch-plugin cannot be built: {status}");
}

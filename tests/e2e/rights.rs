//! Who may do what over the control socket, with real users and groups.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use libtest_mimic::Trial;
use netio::netns;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::control::json;
use crate::guest::Directory;
use crate::host::Host;
use crate::named::in_own_mounts;
use crate::switch::{Switch, daemon, run_inside};
use crate::{program, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("rights/owner_only", owner_only),
        trial("rights/group", group),
        trial("rights/others_read", others_read),
        trial("rights/no_such_group", no_such_group),
        trial("rights/roots_switch_is_found", || in_own_mounts(roots_switch_is_found)),
    ]
}

/// IDs that no user or group has here.
const STRANGER: u32 = 64_123;
const OPERATORS: u32 = 64_321;

/// A switch with one host and this control mode, and its socket.
fn switch(directory: &Directory, flags: &[&str]) -> (Switch, Host, String) {
    // The directory is open to everyone whatever the umask is; only the socket's own mode matters.
    fs::set_permissions(directory.path(""), fs::Permissions::from_mode(0o755)).expect("changed");
    let (host, socket) = (Host::quiet("a"), directory.text("control"));
    let port = host.port("");
    (Switch::start(&[&["--tap", &port, "--control", &socket][..], flags].concat()), host, socket)
}

/// The status of a request as this user with these groups, the first of which is the primary one; or why there is
/// none.
fn ask(socket: &str, request: &str, user: u32, groups: &[u32]) -> String {
    let answer = try_exchange_as(socket, request, user, groups);
    answer.map_or_else(|error| error.to_string(), |answer| answer.get(9..12).unwrap_or("none").to_owned())
}

fn try_exchange_as(socket: &str, request: &str, user: u32, groups: &[u32]) -> io::Result<String> {
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let bytes = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
    let work = || {
        // Affects this thread only, which then ends; the kernel checks the thread that connects.
        set_thread_groups(&groups)?;
        set_thread_res_gid(groups[0], groups[0], groups[0])?;
        let user = Uid::from_raw(user);
        set_thread_res_uid(user, user, user)?;
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(wait::NEVER))?;
        stream.write_all(bytes.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

fn mode_and_group(socket: &str) -> (u32, u32) {
    let file = fs::metadata(socket).expect("it is there");
    (file.permissions().mode() & 0o777, file.gid())
}

fn owner_only() {
    let directory = Directory::new();
    let (switch, _host, socket) = switch(&directory, &[]);
    assert_eq!(mode_and_group(&socket).0, 0o660);
    assert!(ask(&socket, "GET /v1/show", STRANGER, &[STRANGER]).contains("Permission denied"));
    // The socket's mode admits group root; that does not make its members root.
    let answer = try_exchange_as(&socket, "GET /v1/show", STRANGER, &[STRANGER, 0]).expect("connected");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("--control-group"), "{answer}");
    assert_eq!(ask(&socket, "DELETE /v1/fdb", 0, &[0]), "200");
    switch.finish();
}

fn group() {
    let directory = Directory::new();
    let (switch, _host, socket) = switch(&directory, &["--control-group", &OPERATORS.to_string()]);
    assert!(switch.summary().contains(&format!("control socket {socket}, group {OPERATORS}")), "{:?}", switch.summary());
    assert_eq!(mode_and_group(&socket), (0o660, OPERATORS));
    assert_eq!(ask(&socket, "DELETE /v1/fdb", STRANGER, &[OPERATORS]), "200");
    assert_eq!(ask(&socket, "DELETE /v1/fdb", STRANGER, &[STRANGER, 7, OPERATORS]), "200", "a further group");
    assert!(ask(&socket, "GET /v1/show", STRANGER, &[STRANGER]).contains("Permission denied"));
    switch.finish();
}

/// Readers change nothing, and cannot keep an operator out.
fn others_read() {
    let directory = Directory::new();
    let config = directory.text("vswitchd.toml");
    let (host, socket) = (Host::quiet("a"), directory.text("control"));
    fs::set_permissions(directory.path(""), fs::Permissions::from_mode(0o755)).expect("changed");
    let text = format!("[control]\npath = \"{socket}\"\ngroup = {OPERATORS}\nread-only-others = true\n");
    fs::write(&config, text).expect("written");
    let switch = Switch::start(&["--config", &config, "--tap", &host.port("")]);
    assert_eq!(mode_and_group(&socket), (0o666, OPERATORS));
    for path in ["/v1/show", "/v1/fdb", "/v1/stats", "/metrics", "/v1/openapi.json"] {
        assert_eq!(ask(&socket, &format!("GET {path}"), STRANGER, &[STRANGER]), "200", "{path}");
    }
    let entry = "/v1/fdb/52:54:00:00:00:01";
    for change in
        ["DELETE /v1/fdb", &format!("DELETE {entry}"), &format!("PUT {entry}"), "DELETE /v1/neighbours", "POST /v1/show"]
    {
        assert_eq!(ask(&socket, change, STRANGER, &[STRANGER]), "403", "{change}");
    }
    assert_eq!(ask(&socket, "DELETE /v1/fdb", STRANGER, &[OPERATORS]), "200");
    // As many silent readers as there can be: operators have connection slots of their own.
    let silent = try_connect_many(&socket, 200);
    assert_eq!(json(&socket, &["port", "list"])[0]["name"], "a");
    drop(silent);
    switch.finish();
}

/// Idle connections of a user with other rights.
fn try_connect_many(socket: &str, count: usize) -> Vec<UnixStream> {
    let work = || {
        let user = Uid::from_raw(STRANGER);
        set_thread_res_uid(user, user, user).expect("another user");
        (0..count).map_while(|_| UnixStream::connect(socket).ok()).collect()
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

/// The output of `vswitchctl show` as another user, without a word about the socket.
fn show_as_stranger() -> Output {
    let mut command = Command::new(program::vswitchctl());
    command.arg("show").env("XDG_RUNTIME_DIR", "/run/user/64123").env_remove("VSWITCHD_SOCKET").uid(STRANGER).gid(STRANGER);
    command.output().expect("vswitchctl runs")
}

/// `/run` is private to this test.
fn roots_switch_is_found() {
    fs::set_permissions("/run", fs::Permissions::from_mode(0o755)).expect("changed");
    let said = |output: &Output| String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    let none = show_as_stranger();
    let tried = "there is no socket at /run/user/64123/vswitchd.sock, /run/vswitchd.sock, /run/vswitchd/vswitchd.sock;";
    assert!(none.status.code() == Some(1) && said(&none).contains(tried), "{none:?}");
    let host = Host::quiet("a");
    let switch = Switch::start(&["--tap", &host.port(""), "--control-read-only-others"]);
    let found = show_as_stranger();
    assert!(found.status.success() && said(&found).lines().next().unwrap().ends_with(", at /run/vswitchd.sock"), "{found:?}");
    switch.finish();
    let switch = Switch::start(&["--tap", &host.port("")]);
    let denied = show_as_stranger();
    let cure = "/run/vswitchd.sock: Permission denied (os error 13); the switch is another user's: run this as root; or start";
    assert!(denied.status.code() == Some(1) && said(&denied).contains(cure), "{denied:?}");
    switch.finish();
    // The daemon and its tool read the same variable.
    let netns = netns::create().expect("a namespace");
    let checked = |args: &[&str]| {
        let mut command = daemon(&[&["--tap", "tap0", "--check"][..], args].concat());
        run_inside(&netns, command.env("VSWITCHD_SOCKET", "/run/by-environment")).output
    };
    assert!(checked(&[]).contains("control socket /run/by-environment\n"));
    assert!(checked(&["--control", "/run/by-flag"]).contains("control socket /run/by-flag\n"));
    let mut command = Command::new(program::vswitchctl());
    let asked = command.arg("show").env("VSWITCHD_SOCKET", "/run/by-environment").output().expect("vswitchctl runs");
    assert!(said(&asked).contains("/run/by-environment: No such file"), "{asked:?}");
}

fn no_such_group() {
    let mut command = daemon(&["--tap", "tap0", "--control-group", "nobodys-group", "--check"]);
    let refused = run_inside(&netns::create().expect("a namespace"), &mut command);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.log.contains("--control-group: there is no group 'nobodys-group' in /etc/group"), "{refused:?}");
    let mut command = daemon(&["--tap", "tap0", "--control", "/run/x", "--control-group", "4711", "--check"]);
    let good = run_inside(&netns::create().expect("a namespace"), &mut command);
    assert!(good.output.contains("control socket /run/x, group 4711\n"), "{good:?}");
}

//! bpf(2): maps, programs and links, as far as this crate uses them (`include/uapi/linux/bpf.h`).
//!
//! Each structure is the beginning of the part of `union bpf_attr` that a command reads; the kernel takes what is left out
//! as zero.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use super::assembler::Instruction;
use crate::option::check;

/// Program type of a socket filter.
pub(crate) const SOCKET_FILTER: u32 = 1;
/// Program type of traffic control.
pub(crate) const SCHED_CLS: u32 = 3;

/// Program type of the choice of a socket for what a namespace receives.
pub(crate) const SK_LOOKUP: u32 = 30;

/// Map type of an array.
pub(crate) const ARRAY: u32 = 2;
/// Map type of a hash table whose least recently used entries make room for new ones.
pub(crate) const LRU_HASH: u32 = 9;

/// Map type of sockets by number.
pub(crate) const SOCKET_MAP: u32 = 15;

/// Map flag: user space may map the values into memory (Linux 5.5).
pub(crate) const MMAPABLE: u32 = 1 << 10;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJECT_INFO: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;

/// Attach type: received packets of an interface, before the network stack (Linux 6.6).
const TCX_INGRESS: u32 = 46;
/// Attach type: the choice of a socket (Linux 5.9).
pub(crate) const SK_LOOKUP_ATTACH: u32 = 36;
/// Link flag: before all programs that are there.
const BEFORE: u32 = 1 << 3;

/// A map's shape.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MapShape {
    pub(crate) map_type: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

#[repr(C)]
struct LoadProgram {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct UpdateMap {
    map: i32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct CreateLink {
    program: i32,
    /// The index of an interface, or the descriptor of a namespace.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

/// Creates a map.
pub(crate) fn create_map(shape: MapShape) -> io::Result<OwnedFd> {
    call(MAP_CREATE, &shape)
}

/// Loads a program. `name` is what `bpftool prog` shows, at most 15 bytes.
pub(crate) fn load_program(program_type: u32, program: &[Instruction], name: &str) -> io::Result<OwnedFd> {
    load_program_for(program_type, 0, program, name)
}

/// The same for a program that says where it will be attached.
pub(crate) fn load_program_for(program_type: u32, attach_type: u32, program: &[Instruction], name: &str) -> io::Result<OwnedFd> {
    let mut request = LoadProgram {
        program_type,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        // Of the helper functions in use, none is for programs under the GPL alone.
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type,
    };
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    call(PROG_LOAD, &request)
}

/// Attaches a program to what an interface receives, before all others. It is detached when the link's descriptor is
/// closed, also by the end of the process.
pub(crate) fn link_to_ingress(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    link_to(program, interface, TCX_INGRESS, BEFORE)
}

/// Attaches a program to this interface or namespace, until the link's descriptor is closed.
pub(crate) fn link_to(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd();
    call(LINK_CREATE, &CreateLink { program, target, attach_type, flags, relative: 0, padding: 0, expected_revision: 0 })
}

/// Puts a socket into a map of sockets. It leaves the map when it is closed.
pub(crate) fn put_socket(map: BorrowedFd<'_>, number: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = socket.as_raw_fd();
    let (key, value) = (ptr::from_ref(&number) as u64, ptr::from_ref(&value) as u64);
    let request = UpdateMap { map: map.as_raw_fd(), padding: 0, key, value, flags: 0 };
    // SAFETY: bpf(2) reads the request, whose length is passed, and behind its pointers a key and a value of four bytes each, as the map
    // has them. All are valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE, ptr::from_ref(&request), size_of::<UpdateMap>()) };
    check(result as libc::c_int).map(drop)
}

/// What the kernel says about a link (`struct bpf_link_info`).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// The interface of a TCX link; 0 once it is detached.
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct ObjectInfo {
    object: i32,
    len: u32,
    info: u64,
}

/// The interface that a TCX link holds its program on; 0 if somebody has detached it, or the interface is gone.
pub(crate) fn interface_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let at = ptr::from_mut(&mut info) as u64;
    let mut request = ObjectInfo { object: link.as_raw_fd(), len: size_of::<LinkInfo>() as u32, info: at };
    // SAFETY: bpf(2) reads and writes the request, whose length is passed, and writes at most `len` bytes of `info`, which are all
    // integers. Both are valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, OBJECT_INFO, ptr::from_mut(&mut request), size_of::<ObjectInfo>()) };
    check(result as libc::c_int)?;
    Ok(info.interface)
}

/// A command that returns a descriptor.
fn call<T>(command: libc::c_int, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: bpf(2) reads the request, whose length is passed. Of those above only `LoadProgram` has pointers: to a
    // program and a text that are valid for the call. None is written to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(request), size_of::<T>()) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The values of an array, mapped into memory.
#[derive(Debug)]
pub(crate) struct MappedValues {
    at: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the memory belongs to the process until it is unmapped on drop, and is reached through atomics alone.
unsafe impl Send for MappedValues {}
// SAFETY: as above.
unsafe impl Sync for MappedValues {}

impl MappedValues {
    /// Maps the first `len` bytes of the values of an array that was created with [`MMAPABLE`].
    pub(crate) fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<MappedValues> {
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory that is in use.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(MappedValues { at, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The bytes, which programs read and write meanwhile.
    pub(crate) fn bytes(&self) -> &[std::sync::atomic::AtomicU8] {
        // SAFETY: `len` bytes are mapped for reading and writing as long as `self` lives. An atomic byte has the size and
        // alignment of a byte, all of its bit patterns are valid, and others may change it at any time.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.len) }
    }
}

impl Drop for MappedValues {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and the borrows of its bytes have ended.
        unsafe { libc::munmap(self.at.as_ptr(), self.len) };
    }
}

//! An assembler of eBPF instructions (RFC 9669): those that the gate's program consists of.
//!
//! ```text
//!  0        1           2            4                      8
//! +--------+-----------+------------+----------------------+
//! | opcode | registers | offset     | immediate            |   registers: destination in one nibble, source in the other
//! +--------+-----------+------------+----------------------+
//! ```
//!
//! Offsets and immediates are in host byte order. Jumps name a [`Label`], whose place may still be unknown; [`finish`]
//! fills in the distances.
//!
//! Written by hand because the alternatives load ELF files, which need a compiler for BPF at build time or a binary in the
//! repository, and because the program depends on nothing but the descriptors of its maps.
//!
//! [`finish`]: Assembler::finish

use std::os::fd::{AsRawFd, BorrowedFd};

/// One instruction as the kernel reads it.
pub(crate) type Instruction = [u8; 8];

/// A register. `R10` is the frame pointer, which cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Register {
    R0 = 0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// The size of a memory access, as the bits of the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// An arithmetic operation of 64 bits, as the bits of the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Operation {
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

/// A comparison of 64 bits by which a jump is taken, as the bits of the opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Test {
    Equal = 0x10,
    /// Any of the bits is set in both.
    AnyBit = 0x40,
    NotEqual = 0x50,
}

/// A place in the program that jumps lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(usize);

/// Why a program cannot be assembled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AssemblyError {
    /// A jump leads to a label that stands nowhere.
    MissingLabel,
    /// A jump is longer than 32,767 instructions.
    TooFar,
}

const IMMEDIATE: u8 = 0x00;
const FROM_REGISTER: u8 = 0x08;
const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_IMMEDIATE: u8 = 0x62;
const LOAD_IMMEDIATE_64: u8 = 0x18;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// In place of the source register: the immediate is the descriptor of a map (RFC 9669 section 5.4).
const OF_MAP: u8 = 1;
/// The same: the address of the map's first value.
const OF_MAP_VALUE: u8 = 2;

/// A program under construction.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// The place of each label, once it is known.
    labels: Vec<Option<usize>>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A label that stands nowhere yet.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label stands before the next instruction.
    pub(crate) fn here(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.code.len());
        }
    }

    /// `to = to OPERATION value`.
    pub(crate) fn compute(&mut self, operation: Operation, to: Register, value: i32) {
        self.push(ALU64 | IMMEDIATE | operation as u8, to as u8, 0, 0, value);
    }

    /// `to = to OPERATION from`.
    pub(crate) fn combine(&mut self, operation: Operation, to: Register, from: Register) {
        self.push(ALU64 | FROM_REGISTER | operation as u8, to as u8, from as u8, 0, 0);
    }

    /// The lower 16 bits of the register, between network and host byte order; the others are cleared.
    pub(crate) fn swap_16(&mut self, register: Register) {
        self.push(TO_BIG_ENDIAN, register as u8, 0, 0, 16);
    }

    /// `to = *(base + offset)`.
    pub(crate) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.push(LOAD | size as u8, to as u8, base as u8, offset, 0);
    }

    /// `*(base + offset) = from`.
    pub(crate) fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) {
        self.push(STORE | size as u8, base as u8, from as u8, offset, 0);
    }

    /// `*(base + offset) = value`.
    pub(crate) fn store_immediate(&mut self, size: Size, base: Register, offset: i16, value: i32) {
        self.push(STORE_IMMEDIATE | size as u8, base as u8, 0, offset, value);
    }

    /// `to` = the map, as helper functions take it.
    pub(crate) fn load_map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(LOAD_IMMEDIATE_64, to as u8, OF_MAP, 0, map.as_raw_fd());
        self.code.push([0; 8]);
    }

    /// `to` = the address of the only value of an array.
    pub(crate) fn load_map_value(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(LOAD_IMMEDIATE_64, to as u8, OF_MAP_VALUE, 0, map.as_raw_fd());
        self.code.push([0; 8]);
    }

    /// Calls a helper function: arguments in R1 to R5, which are lost; the result is in R0.
    pub(crate) fn call(&mut self, function: i32) {
        self.push(CALL, 0, 0, 0, function);
    }

    /// Jumps.
    pub(crate) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, 0, 0, 0, 0);
    }

    /// Jumps if the register and the value are so.
    pub(crate) fn jump_if(&mut self, register: Register, test: Test, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP | IMMEDIATE | test as u8, register as u8, 0, 0, value);
    }

    /// Jumps if both registers are so.
    pub(crate) fn jump_if_both(&mut self, register: Register, test: Test, other: Register, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP | FROM_REGISTER | test as u8, register as u8, other as u8, 0, 0);
    }

    /// Ends with this result.
    pub(crate) fn exit(&mut self, result: i32) {
        self.compute(Operation::Move, Register::R0, result);
        self.push(EXIT, 0, 0, 0, 0);
    }

    fn push(&mut self, opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        // C's bit fields: the first nibble is the lower one on little-endian hosts and the upper one on others.
        let registers = if cfg!(target_endian = "big") { destination << 4 | source } else { destination | source << 4 };
        let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        self.code.push([opcode, registers, a, b, c, d, e, f]);
    }

    /// The program, with the distances of its jumps.
    pub(crate) fn finish(mut self) -> Result<Vec<Instruction>, AssemblyError> {
        for (at, Label(label)) in self.jumps {
            let place = self.labels.get(label).copied().flatten().ok_or(AssemblyError::MissingLabel)?;
            let distance = i16::try_from(place as i64 - at as i64 - 1).map_err(|_| AssemblyError::TooFar)?;
            if let Some(instruction) = self.code.get_mut(at) {
                instruction[2..4].copy_from_slice(&distance.to_ne_bytes());
            }
        }
        Ok(self.code)
    }
}

/// The bytes are those of `bpftool prog dump xlated opcodes` for the same instructions, on a little-endian host.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    use std::os::fd::AsFd;

    fn one(assemble: impl FnOnce(&mut Assembler)) -> Vec<Instruction> {
        let mut code = Assembler::default();
        assemble(&mut code);
        code.finish().unwrap()
    }

    #[test]
    fn instructions_as_bytes() {
        use Register::{R0, R1, R2, R3, R6, R7, R10};
        let literal: [(Vec<Instruction>, Instruction); 11] = [
            // r6 = r1
            (one(|code| code.combine(Operation::Move, R6, R1)), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]),
            // r2 = -1
            (one(|code| code.compute(Operation::Move, R2, -1)), [0xb7, 0x02, 0, 0, 0xff, 0xff, 0xff, 0xff]),
            // r1 += r2
            (one(|code| code.combine(Operation::Add, R1, R2)), [0x0f, 0x21, 0, 0, 0, 0, 0, 0]),
            // r2 &= 8191
            (one(|code| code.compute(Operation::And, R2, 8191)), [0x57, 0x02, 0, 0, 0xff, 0x1f, 0, 0]),
            // r2 <<= 2
            (one(|code| code.compute(Operation::ShiftLeft, R2, 2)), [0x67, 0x02, 0, 0, 2, 0, 0, 0]),
            // r3 >>= r2
            (one(|code| code.combine(Operation::ShiftRight, R3, R2)), [0x7f, 0x23, 0, 0, 0, 0, 0, 0]),
            // r2 = *(u32 *)(r6 + 16)
            (one(|code| code.load(Size::Word, R2, R6, 16)), [0x61, 0x62, 16, 0, 0, 0, 0, 0]),
            // r2 = *(u16 *)(r10 - 18)
            (one(|code| code.load(Size::Half, R2, R10, -18)), [0x69, 0xa2, 0xee, 0xff, 0, 0, 0, 0]),
            // *(u32 *)(r10 - 40) = r2
            (one(|code| code.store(Size::Word, R10, -40, R2)), [0x63, 0x2a, 0xd8, 0xff, 0, 0, 0, 0]),
            // r7 = be16 r7
            (one(|code| code.swap_16(R7)), [0xdc, 0x07, 0, 0, 16, 0, 0, 0]),
            // call 68
            (one(|code| code.call(68)), [0x85, 0, 0, 0, 68, 0, 0, 0]),
        ];
        for (assembled, expected) in literal {
            assert_eq!(assembled, [expected]);
        }
        assert_eq!(one(|code| code.exit(2)), [[0xb7, R0 as u8, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(one(|code| code.store_immediate(Size::Word, R10, -64, 1)), [[0x62, 0x0a, 0xc0, 0xff, 1, 0, 0, 0]]);
    }

    #[test]
    fn maps_take_two_instructions() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let [a, b, c, d] = file.as_fd().as_raw_fd().to_ne_bytes();
        let map = one(|code| code.load_map(Register::R1, file.as_fd()));
        assert_eq!(map, [[0x18, 0x11, 0, 0, a, b, c, d], [0; 8]]);
        let value = one(|code| code.load_map_value(Register::R7, file.as_fd()));
        assert_eq!(value, [[0x18, 0x27, 0, 0, a, b, c, d], [0; 8]]);
    }

    #[test]
    fn jumps_forward_and_back() {
        let mut code = Assembler::default();
        let (start, end) = (code.label(), code.label());
        code.here(start);
        code.jump_if(Register::R0, Test::NotEqual, 0, end);
        code.jump_if_both(Register::R2, Test::Equal, Register::R3, end);
        code.jump(start);
        code.here(end);
        code.exit(-1);
        let code = code.finish().unwrap();
        assert_eq!(code[0], [0x55, 0x00, 2, 0, 0, 0, 0, 0]);
        assert_eq!(code[1], [0x1d, 0x32, 1, 0, 0, 0, 0, 0]);
        assert_eq!(code[2], [0x05, 0, 0xfd, 0xff, 0, 0, 0, 0]);
        assert_eq!(
            one(|code| {
                let on = code.label();
                code.jump_if(Register::R2, Test::AnyBit, 7, on);
                code.here(on);
            })[0][0],
            0x45
        );
    }

    #[test]
    fn labels_that_stand_nowhere_and_jumps_that_are_too_long() {
        let mut code = Assembler::default();
        let nowhere = code.label();
        code.jump(nowhere);
        assert_eq!(code.finish(), Err(AssemblyError::MissingLabel));
        let mut code = Assembler::default();
        let far = code.label();
        code.jump(far);
        (0..32_768).for_each(|_| code.call(1));
        code.here(far);
        assert_eq!(code.finish(), Err(AssemblyError::TooFar));
    }
}

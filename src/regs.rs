//! Where an interrupted thread was: the registers that unwinding starts from.

use framehop::UnwindRegsNative;

/// Return addresses may be signed (PAC) in their upper bits; a user address on Linux has at most 48
/// bits unless a program asks for more.
#[cfg(target_arch = "aarch64")]
const USER_ADDRESS: u64 = (1 << 48) - 1;

/// A program counter, and what is needed to find its caller.
pub(crate) struct Registers {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    pub(crate) unwind: UnwindRegsNative,
}

impl Registers {
    /// Signal side. Those of the thread that the kernel interrupted with a signal.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn interrupted(context: &libc::ucontext_t) -> Self {
        let registers = &context.uc_mcontext.gregs;
        let pc = registers[libc::REG_RIP as usize] as u64;
        let sp = registers[libc::REG_RSP as usize] as u64;
        let fp = registers[libc::REG_RBP as usize] as u64;
        Self { pc, sp, unwind: UnwindRegsNative::new(pc, sp, fp) }
    }

    /// Signal side. Those of the thread that the kernel interrupted with a signal.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn interrupted(context: &libc::ucontext_t) -> Self {
        let registers = &context.uc_mcontext;
        let (pc, sp) = (registers.pc, registers.sp);
        let (fp, lr) = (registers.regs[29], registers.regs[30]);
        let mask = framehop::aarch64::PtrAuthMask(USER_ADDRESS);
        Self { pc, sp, unwind: UnwindRegsNative::new_with_ptr_auth_mask(mask, lr, sp, fp) }
    }

    /// Those of the calling function itself, to unwind from without a signal.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (u64, u64, u64);
        // SAFETY: reads three registers into three others and touches nothing else.
        unsafe {
            std::arch::asm!(
                "lea {pc}, [rip]", "mov {sp}, rsp", "mov {fp}, rbp",
                pc = out(reg) pc, sp = out(reg) sp, fp = out(reg) fp, options(nomem, nostack),
            );
        }
        Self { pc, sp, unwind: UnwindRegsNative::new(pc, sp, fp) }
    }

    /// Those of the calling function itself, to unwind from without a signal.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp, lr): (u64, u64, u64, u64);
        // SAFETY: reads four registers into four others and touches nothing else.
        unsafe {
            std::arch::asm!(
                "adr {pc}, .", "mov {sp}, sp", "mov {fp}, x29", "mov {lr}, x30",
                pc = out(reg) pc, sp = out(reg) sp, fp = out(reg) fp, lr = out(reg) lr,
                options(nomem, nostack),
            );
        }
        let mask = framehop::aarch64::PtrAuthMask(USER_ADDRESS);
        Self { pc, sp, unwind: UnwindRegsNative::new_with_ptr_auth_mask(mask, lr, sp, fp) }
    }
}

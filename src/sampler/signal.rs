//! The signal that both engines use: ours, or not taken.

use std::io;
use std::mem;

use crate::error::{Error, ErrorKind};
use crate::handler;
use crate::settings::Signal;

impl Signal {
    /// The signal's number in this process.
    pub(crate) fn number(self) -> Result<i32, Error> {
        match self {
            Self::Urg => Ok(libc::SIGURG),
            Self::Prof => Ok(libc::SIGPROF),
            Self::Realtime(offset) => {
                let number = libc::SIGRTMIN() + i32::from(offset);
                if number <= libc::SIGRTMAX() {
                    return Ok(number);
                }
                let most = libc::SIGRTMAX() - libc::SIGRTMIN();
                Err(Error::new(
                    ErrorKind::Config,
                    format!("Signal::Realtime({offset}) does not exist here; 0 to {most} do"),
                ))
            }
        }
    }
}

/// Installs the handler. Refuses when somebody else handles the signal.
///
/// It stays installed for ever: a signal that is still under way when sampling stops would end the
/// process if it met the default action.
pub(crate) fn install(signal: i32) -> Result<(), Error> {
    let current = current(signal).map_err(|error| refused(signal, &error))?;
    if is_ours(&current) {
        return Ok(());
    }
    if current.sa_sigaction != libc::SIG_DFL && current.sa_sigaction != libc::SIG_IGN {
        return Err(Error::new(
            ErrorKind::InUse,
            format!(
                "signal {signal} already has a handler in this process; \
                 choose another by .signal(Signal::Realtime(n))"
            ),
        ));
    }
    // SAFETY: a zeroed sigaction with an empty mask is valid; the handler is async-signal-safe.
    let installed = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler::on_signal as *const () as usize;
        // Not SA_ONSTACK: an alternate stack is as small as its owner chose for a handler of its own.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if installed == 0 { Ok(()) } else { Err(refused(signal, &io::Error::last_os_error())) }
}

/// Whether the handler is still installed.
pub(crate) fn is_installed(signal: i32) -> bool {
    current(signal).is_ok_and(|action| is_ours(&action))
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler::on_signal as *const () as usize
}

fn current(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: asks only; the action is written on success.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        match libc::sigaction(signal, std::ptr::null(), &mut action) {
            0 => Ok(action),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn refused(signal: i32, error: &io::Error) -> Error {
    Error::new(ErrorKind::Kernel, format!("sigaction for signal {signal} refused: {error}"))
}

//! The wire between a node and its database, which can be cut: while it is, nothing comes through and nobody is told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a wire that is cut is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One wire, there until this program ends.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
}

impl Wire {
    /// To whatever listens at `to` on this machine.
    pub(crate) fn new(to: u16) -> anyhow::Result<Wire> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let wire = Wire { port: listener.local_addr()?.port(), cut: Arc::default() };
        let cut = wire.cut.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let cut = cut.clone();
                std::thread::spawn(move || drop(join(near, to, &cut)));
            }
        });
        Ok(wire)
    }

    /// Cuts it, or mends it. What was on its way arrives when it is mended, as with a network.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

fn join(near: TcpStream, to: u16, cut: &Arc<AtomicBool>) -> std::io::Result<()> {
    hold(cut);
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    let (near_again, far_again, also_cut) = (near.try_clone()?, far.try_clone()?, cut.clone());
    std::thread::spawn(move || pass(far_again, near_again, &also_cut));
    pass(near, far, cut);
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let _ = to.set_nodelay(true);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        hold(cut);
        match from.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                // What was read in the moment it was cut must not slip through either.
                hold(cut);
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        }
    }
    hold(cut);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn hold(cut: &AtomicBool) {
    while cut.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
}

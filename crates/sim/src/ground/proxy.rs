//! What stands between a process and PostgreSQL: each request passes by a control, which may let it be lost, its answer be
//! lost, arrive late, or be refused.
//!
//! One thread simulates and waits for each answer, so requests come one at a time, and the next is looked at only when the
//! last is answered: what happens depends on their order alone, however fast the machine is.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::chance::Chance;
use crate::ground::Trouble;

/// What becomes of a request, and of the connection it comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Passes,
    /// It is lost, and the connection is cut.
    Lost,
    /// It is carried out; the answer is lost, and the connection is cut.
    Unheard,
    /// The connection is cut, and the server gets it later. Within a transaction it is lost, because the server ends that
    /// with the connection.
    Late,
    /// The server refuses it, with this code.
    Refused(&'static str),
}

/// Decides about requests. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Control(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    chance: Chance,
    away: bool,
    trouble: Option<Trouble>,
    /// How many more requests pass before one meets its fate.
    armed: Option<(u64, Fate)>,
    /// Requests until the process that makes the last of them dies in it.
    dies_in: Option<u64>,
    died: Option<u64>,
    dead: BTreeSet<u64>,
    late: Vec<Late>,
    struck: u64,
}

/// A request that is still on its way.
#[derive(Debug)]
struct Late {
    server: TcpStream,
    request: Vec<u8>,
}

impl Control {
    /// Lets everything pass.
    pub fn new(chance: Chance) -> Control {
        Control(Arc::new(Mutex::new(State {
            chance,
            away: false,
            trouble: None,
            armed: None,
            dies_in: None,
            died: None,
            dead: BTreeSet::new(),
            late: Vec::new(),
            struck: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After so many requests more, one meets this fate.
    pub fn arm(&self, after: u64, fate: Fate) {
        self.lock().armed = Some((after, fate));
    }

    /// None does any more. Answers whether one did.
    pub fn disarm(&self) -> bool {
        self.lock().armed.take().is_none()
    }

    /// No request is answered, or they are again.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// What requests meet with.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.lock().trouble = trouble;
    }

    /// Lets the process that makes this request from now die in it.
    pub fn die_in(&self, requests: Option<u64>) {
        self.lock().dies_in = requests;
    }

    /// Whether this process died in the middle of a request; says so once.
    pub fn take_died(&self, process: u64) -> bool {
        self.lock().died.take_if(|died| *died == process).is_some()
    }

    /// A process ends: nothing it asks from now on arrives.
    pub fn end(&self, process: u64) {
        self.lock().dead.insert(process);
    }

    /// Lets everything that is late arrive, and waits until the server has dealt with it. Answers how much there was.
    pub fn let_late_arrive(&self) -> usize {
        let late = std::mem::take(&mut self.lock().late);
        let count = late.len();
        for Late { mut server, request } in late {
            // The server may have given its connection up.
            if server.write_all(&request).is_ok() && server.shutdown(Shutdown::Write).is_ok() {
                let _ = server.read_to_end(&mut Vec::new());
            }
        }
        count
    }

    fn fate(&self, process: u64) -> Fate {
        let state = &mut *self.lock();
        if state.dead.contains(&process) || state.away {
            return Fate::Lost;
        }
        if let Some(left) = &mut state.dies_in {
            if *left == 0 {
                state.dies_in = None;
                state.dead.insert(process);
                state.died = Some(process);
                return *state.chance.pick(&[Fate::Lost, Fate::Unheard, Fate::Late]);
            }
            *left -= 1;
        }
        if let Some((left, fate)) = &mut state.armed {
            if *left == 0 {
                let fate = *fate;
                state.armed = None;
                state.struck += 1;
                return fate;
            }
            *left -= 1;
        }
        match state.trouble {
            // No room; an error of input or output.
            Some(Trouble::Full) if state.chance.permille(300) => Fate::Refused("53100"),
            Some(Trouble::Failing) if state.chance.permille(300) => Fate::Refused("58030"),
            Some(_) | None => Fate::Passes,
        }
    }
}

/// A way to the server for one process, open until it is dropped.
#[derive(Debug)]
pub struct Door {
    /// Where it is.
    pub port: u16,
    closed: Arc<AtomicBool>,
}

impl Door {
    /// Opens a way to the server at this address.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(control: &Control, process: u64, server: (String, u16)) -> io::Result<Door> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, closed) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let (control, is_closed) = (control.clone(), closed.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let (control, server) = (control.clone(), server.clone());
                // An error ends the connection, which is how its client hears of it.
                thread::spawn(move || drop(Way { control, process }.carry(client, &server)));
            }
        });
        Ok(Door { port, closed })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the thread, so that it sees that.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

/// One connection.
struct Way {
    control: Control,
    process: u64,
}

impl Way {
    fn carry(&self, mut client: TcpStream, (host, port): &(String, u16)) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut greeting = Vec::new();
        read_sized(&mut client, &mut greeting)?;
        if self.control.fate(self.process) != Fate::Passes {
            return Ok(());
        }
        let mut server = TcpStream::connect((host.as_str(), *port))?;
        server.set_nodelay(true)?;
        server.write_all(&greeting)?;
        let mut status = b'I';
        // Until the server is ready the two may have to talk about who this is.
        while !answer(&mut server, Some(&mut client), &mut status)? {
            let mut word = Vec::new();
            read_message(&mut client, &mut word)?;
            server.write_all(&word)?;
        }
        loop {
            let Some(request) = read_request(&mut client)? else { return Ok(()) };
            let is_commit = request.starts_with(b"Q") && request.ends_with(b"COMMIT\0");
            match self.control.fate(self.process) {
                Fate::Passes => {
                    server.write_all(&request)?;
                    answer(&mut server, Some(&mut client), &mut status)?;
                }
                Fate::Lost => return Ok(()),
                Fate::Late if status == b'I' && !request.ends_with(b"BEGIN\0") => {
                    self.control.lock().late.push(Late { server, request });
                    return Ok(());
                }
                Fate::Late => return Ok(()),
                Fate::Unheard => {
                    server.write_all(&request)?;
                    answer(&mut server, None, &mut status)?;
                    return Ok(());
                }
                Fate::Refused(code) => {
                    // A refused COMMIT ends the transaction, any other statement only fails it.
                    if is_commit {
                        server.write_all(b"Q\0\0\0\x0dROLLBACK\0")?;
                        answer(&mut server, None, &mut status)?;
                    }
                    let mut fields = Vec::new();
                    for (field, text) in [(b'S', "ERROR"), (b'C', code), (b'M', "simulated: no")] {
                        fields.push(field);
                        fields.extend_from_slice(text.as_bytes());
                        fields.push(0);
                    }
                    fields.push(0);
                    let mut said = vec![b'E'];
                    said.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
                    said.extend_from_slice(&fields);
                    said.extend_from_slice(&[b'Z', 0, 0, 0, 5, status]);
                    client.write_all(&said)?;
                }
            }
        }
    }
}

/// Everything up to what ends a request, or `None` if the client says goodbye.
fn read_request(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut request = Vec::new();
    loop {
        let begin = request.len();
        read_message(client, &mut request)?;
        match request[begin] {
            b'S' | b'Q' => return Ok(Some(request)),
            b'X' => return Ok(None),
            _ => {}
        }
    }
}

/// Carries what the server answers on to the client, to the end of it. Answers false if it asks for a word first.
fn answer(server: &mut TcpStream, mut client: Option<&mut TcpStream>, status: &mut u8) -> io::Result<bool> {
    loop {
        let mut message = Vec::new();
        read_message(server, &mut message)?;
        if let Some(client) = &mut client {
            client.write_all(&message)?;
        }
        match message[0] {
            b'Z' => {
                *status = message[5];
                return Ok(true);
            }
            // Neither "you are in" nor the last word of a password's proof.
            b'R' if !matches!(message[5..9], [0, 0, 0, 0 | 12]) => return Ok(false),
            _ => {}
        }
    }
}

/// Adds one message with its kind.
fn read_message(from: &mut TcpStream, to: &mut Vec<u8>) -> io::Result<()> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    to.push(kind[0]);
    read_sized(from, to)
}

/// Adds one message without its kind.
fn read_sized(from: &mut TcpStream, to: &mut Vec<u8>) -> io::Result<()> {
    let mut size = [0; 4];
    from.read_exact(&mut size)?;
    to.extend_from_slice(&size);
    let left = (u32::from_be_bytes(size) as usize).saturating_sub(4);
    let begin = to.len();
    to.resize(begin + left, 0);
    from.read_exact(&mut to[begin..])
}

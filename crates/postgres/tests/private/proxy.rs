//! A proxy between a store and its database that cuts connections when it sees what it was told to look for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// What becomes of a request, and of the connection it comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The request is lost, and the connection is cut.
    Before,
    /// The server carries it out; the answer is lost, and the connection is cut.
    After,
    /// The connection is cut, and the server gets the request later, when it is let go.
    Held,
}

/// A request that is looked for by bytes it contains, and what becomes of it.
type Plan = Option<(Vec<u8>, Cut)>;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    /// Says that the plan was carried out.
    done: Receiver<Held>,
}

/// What was kept back, if anything was.
pub(crate) struct Held(Option<(TcpStream, Vec<u8>)>);

impl Held {
    /// Lets the server have it, and waits until it has dealt with it.
    pub(crate) fn let_go(self) {
        let (mut upstream, request) = self.0.expect("something was held");
        upstream.write_all(&request).unwrap();
        // As if whoever sent it had ended the connection right after.
        upstream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = upstream.read_to_end(&mut answer);
    }
}

impl Proxy {
    pub(crate) fn to(server_port: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let (tell, done) = channel();
        let shared = plan.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                carry(client, server, &shared, &tell);
            }
        });
        Proxy { port, plan, done }
    }

    /// The next request that contains these bytes is treated like this.
    pub(crate) fn cut(&self, containing: &[u8], how: Cut) {
        *self.plan.lock().unwrap() = Some((containing.to_vec(), how));
    }

    /// Waits until it was.
    pub(crate) fn cut_done(&self) -> Held {
        self.done.recv().expect("the proxy lives as long as the test")
    }
}

/// Carries both directions, each on a thread of its own.
fn carry(client: TcpStream, server: TcpStream, plan: &Arc<Mutex<Plan>>, tell: &Sender<Held>) {
    let (mut to_server, from_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (plan, tell) = (plan.clone(), tell.clone());
    // Set once answers go nowhere any more.
    let muted = Arc::new(Mutex::new(false));
    let muted_too = muted.clone();
    thread::spawn(move || {
        let mut from_client = from_client;
        let mut chunk = vec![0; 1 << 20];
        while let Ok(length @ 1..) = from_client.read(&mut chunk) {
            let request = &chunk[..length];
            let planned = {
                let mut plan = plan.lock().unwrap();
                let found = |(bytes, _): &(Vec<u8>, Cut)| request.windows(bytes.len()).any(|window| window == *bytes);
                if plan.as_ref().is_some_and(found) { plan.take().map(|(_, how)| how) } else { None }
            };
            let Some(how) = planned else {
                if to_server.write_all(request).is_err() {
                    break;
                }
                continue;
            };
            *muted.lock().unwrap() = true;
            let mut held = Held(None);
            match how {
                Cut::Before => {
                    let _ = to_server.shutdown(Shutdown::Both);
                }
                Cut::After => {
                    // To the end of what it answers, so that it was carried out when the client hears of the cut.
                    to_server.write_all(request).unwrap();
                    to_server.shutdown(Shutdown::Write).unwrap();
                    let _ = to_server.read_to_end(&mut Vec::new());
                }
                Cut::Held => held = Held(Some((to_server.try_clone().unwrap(), request.to_vec()))),
            }
            let _ = from_client.shutdown(Shutdown::Both);
            let _ = tell.send(held);
            return;
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let (mut from_server, mut to_client) = (server, client);
        let mut chunk = vec![0; 1 << 20];
        // Looked at, and not read, while muted: then somebody else reads it.
        while let Ok(length @ 1..) = from_server.peek(&mut chunk) {
            if *muted_too.lock().unwrap() {
                return;
            }
            from_server.read_exact(&mut chunk[..length]).unwrap();
            if to_client.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        if !*muted_too.lock().unwrap() {
            let _ = to_client.shutdown(Shutdown::Both);
        }
    });
}

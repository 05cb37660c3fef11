//! A server that plays a script: one act for each connection, in order. For tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

/// What the server does with a connection.
pub(crate) enum Act {
    /// Reads the request and answers with these bytes.
    Answer(String),
    /// Closes at once, without reading anything.
    Hangs,
    /// Reads the request, says nothing, and keeps the connection until the client is gone.
    Silent,
    /// Reads the request and closes.
    Closes,
    /// Reads the request but for its last byte, and closes, which the kernel makes a reset.
    Resets,
}

/// A request as the server got it.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The body, decompressed.
    pub(crate) fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut out).unwrap();
        out
    }
}

/// The running server.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Receiver<Request>,
    thread: JoinHandle<()>,
}

impl Act {
    /// An answer with a status, more header lines, and a body.
    pub(crate) fn status(status: u16, headers: &str, body: &str) -> Self {
        let len = body.len();
        Self::Answer(format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {len}\r\nconnection: close\r\n{headers}\r\n{body}"
        ))
    }

    pub(crate) fn ok() -> Self {
        Self::status(200, "", "{}")
    }
}

impl Server {
    /// Begins the play. The server takes as many connections as there are acts, and no more.
    pub(crate) fn play(acts: impl IntoIterator<Item = Act>) -> Self {
        let acts: Vec<_> = acts.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (to, requests) = mpsc::channel();
        let thread = thread::spawn(move || {
            for act in acts {
                let (stream, _) = listener.accept().unwrap();
                perform(act, stream, &to);
            }
        });
        Self { url, requests, thread }
    }

    /// All requests that came whole, once the play is over.
    pub(crate) fn requests(self) -> Vec<Request> {
        self.thread.join().unwrap();
        self.requests.iter().collect()
    }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn perform(act: Act, stream: TcpStream, to: &mpsc::Sender<Request>) {
    if let Act::Hangs = act {
        return;
    }
    // Byte by byte: what the script leaves unread stays with the kernel.
    let mut reader = BufReader::with_capacity(1, &stream);
    to.send(read(&mut reader, usize::from(matches!(act, Act::Resets)))).unwrap();
    match act {
        Act::Answer(text) => {
            let _ = (&stream).write_all(text.as_bytes());
        }
        // Ends when the client closes.
        Act::Silent => drop(reader.read_to_end(&mut Vec::new())),
        Act::Closes | Act::Resets | Act::Hangs => {}
    }
}

/// Reads a request, but for `less` bytes of its body.
fn read(reader: &mut impl BufRead, less: usize) -> Request {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the head breaks off: {head}");
    }
    let lower = head.to_ascii_lowercase();
    let len = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.trim().parse::<usize>().unwrap() - less];
    reader.read_exact(&mut body).unwrap();
    Request { head, body }
}

//! A server of a test's own, on a port that no other test gets: each connection has a thread. It ends when this goes away.

use crate::harness::listener;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

pub struct Server {
    pub port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Has `serve` answer each connection. What it returns does not matter: clients break off, and so do some servers.
    pub fn start<S: Send + Sync + 'static>(state: Arc<S>, serve: fn(TcpStream, &S) -> io::Result<()>) -> Server {
        let (listener, port) = listener();
        let ended = Arc::new(AtomicBool::default());
        let at_end = ended.clone();
        let thread = spawn(move || {
            for stream in listener.incoming().flatten() {
                if at_end.load(Ordering::SeqCst) {
                    return;
                }
                let state = state.clone();
                spawn(move || drop(serve(stream, &state)));
            }
        });
        Server { port, ended, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server");
        }
    }
}

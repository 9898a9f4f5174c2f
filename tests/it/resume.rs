//! Transfers that a kill cut short: the next try moves the rest only.

use crate::harness::{Lab, Registry, require};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A server before a registry that counts what it sends, and stops to send after so many bytes.
struct Throttle {
    host: String,
    sent: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Throttle {
    fn before(registry: u16) -> Throttle {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("its address").to_string();
        let throttle = Throttle { host, sent: Arc::default(), most: Arc::new(AtomicU64::new(u64::MAX)) };
        let (sent, most) = (throttle.sent.clone(), throttle.most.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", registry)) else { continue };
                let (Ok(mut up), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { continue };
                thread::spawn(move || {
                    let _ = std::io::copy(&mut up, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let (sent, most) = (sent.clone(), most.clone());
                thread::spawn(move || pass(server, client, &sent, &most));
            }
        });
        throttle
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, sent: &AtomicU64, most: &AtomicU64) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while sent.load(Ordering::SeqCst) >= most.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        sent.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_ended() {
    require!("docker-registry");
    const BYTES: u64 = 12 << 20;
    let (lab, registry) = (Lab::new(), Registry::start());
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..BYTES / 8)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state ^ (state >> 29)).to_le_bytes()
        })
        .collect();
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
    lab.write("context/big", &noise);
    let target = format!("docker://{}/out:1", registry.host());
    lab.rbuild(["bud", "-t", &target]).arg(lab.path("context")).ok();

    let throttle = Throttle::before(registry.port());
    let name = format!("{}/out:1", throttle.host);
    let pull = || lab.rbuild(["pull", &name]).env("RBUILD_ROOT", lab.path("fresh"));
    throttle.most.store(BYTES * 2 / 3, Ordering::SeqCst);
    let mut child = pull().start();
    let deadline = Instant::now() + Duration::from_secs(60);
    while throttle.sent.load(Ordering::SeqCst) < BYTES * 2 / 3 {
        assert!(Instant::now() < deadline, "the pull gets nowhere");
        thread::sleep(Duration::from_millis(5));
    }
    // What was sent is written soon: the disk has no part in it.
    thread::sleep(Duration::from_millis(300));
    child.kill().expect("kill");
    child.wait().expect("wait");
    throttle.sent.store(0, Ordering::SeqCst);
    throttle.most.store(u64::MAX, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(50));
    let before = throttle.sent.load(Ordering::SeqCst);

    pull().ok();
    let moved = throttle.sent.load(Ordering::SeqCst) - before;
    assert!(moved < BYTES / 2, "{moved} of {BYTES} bytes were moved again");
    lab.rbuild(["check"]).env("RBUILD_ROOT", lab.path("fresh")).ok();
    let left = std::fs::read_dir(lab.path("fresh/partial")).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "what was unfinished is finished");
}

//! A proxy that passes bytes on. Whatever name it is asked for is the loopback, so that nothing else can reach it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running proxy; its threads end with their connections.
pub(crate) struct Tunnel {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// With `status`, every tunnel is refused.
    pub(crate) fn start(status: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let keeps = Arc::clone(&keeps);
                // An error is the end of a connection, as any other.
                thread::spawn(move || passed_on(stream, &keeps, status).unwrap_or_default());
            }
        });
        Self { address, asked }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The head of each request, as it came.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn passed_on(
    mut near: TcpStream,
    asked: &Mutex<Vec<String>>,
    status: Option<&str>,
) -> io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::with_capacity(1, near.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    asked.lock().unwrap().push(head.clone());
    if let Some(status) = status {
        return near.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
    }
    let target = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next());
    let port = target.and_then(|target| target.rsplit_once(':')?.1.parse().ok());
    let port: u16 = port.ok_or(io::ErrorKind::InvalidInput)?;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut upward, mut downward) = (near.try_clone()?, far.try_clone()?);
    let up = thread::spawn(move || {
        let mut far = far;
        let result = io::copy(&mut upward, &mut far);
        far.shutdown(Shutdown::Write).unwrap_or_default();
        result
    });
    io::copy(&mut downward, &mut near)?;
    near.shutdown(Shutdown::Write)?;
    up.join().unwrap()?;
    Ok(())
}

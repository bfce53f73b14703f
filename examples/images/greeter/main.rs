// SPDX-License-Identifier: Apache-2.0
//! An event function that is one static binary: its image has no other file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 8000))?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(&stream));
    }
    Ok(())
}

/// Answers requests until the platform closes the connection.
fn serve(stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut event = vec![0; length];
        reader.read_exact(&mut event)?;
        let answer = match request.split(' ').nth(1) {
            Some("/invoke") => format!("Hello, {}!\n", String::from_utf8_lossy(&event)),
            _ => String::new(),
        };
        let (status, size) = if answer.is_empty() { ("404 Not Found", 0) } else { ("200 OK", answer.len()) };
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n{answer}")?;
    }
}

//! The load on the checkout service: requests over real HTTP, from a thread and a runtime of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Result;

const CONNECTIONS: u32 = 8;

/// Loads the service for `time`, at `rate` requests a second or as fast as it goes; how many.
pub(crate) fn run(address: SocketAddr, time: Duration, rate: Option<u32>) -> Result<u64> {
    let client = move || {
        let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let end = Instant::now() + time;
        client.block_on(async {
            let connections: Vec<_> =
                (0..CONNECTIONS).map(|_| tokio::spawn(one_after_the_other(address, end, rate))).collect();
            let mut requests = 0;
            for connection in connections {
                requests += connection.await??;
            }
            Ok(requests)
        })
    };
    let client = std::thread::Builder::new().name("client".into()).spawn(client)?;
    client.join().map_err(|_| "the client panicked")?
}

async fn one_after_the_other(address: SocketAddr, end: Instant, rate: Option<u32>) -> Result<u64> {
    let cart: String = (0..64).map(|n| format!("&i{n}={}", 199 + n * 50)).collect();
    let request = format!("GET /checkout?{cart} HTTP/1.1\r\nhost: shop\r\n\r\n");
    let mut ticks = rate.map(|rate| tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / rate));
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let mut requests = 0;
    while Instant::now() < end {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        stream.write_all(request.as_bytes()).await?;
        read_answer(&mut stream).await?;
        requests += 1;
    }
    Ok(requests)
}

async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<()> {
    let (mut line, mut body_bytes) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err("the service hung up".into());
        }
        if let Some(length) = line.strip_prefix("content-length: ") {
            body_bytes = length.trim().parse()?;
        }
    }
    stream.read_exact(&mut vec![0; body_bytes]).await?;
    Ok(())
}

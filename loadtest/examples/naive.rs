//! Runs the naive server: `cargo run --release -p tickgate-loadtest --example naive -- 127.0.0.1:9100`

#[path = "../../benches/support/naive.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the gateway's benchmark")]
mod naive;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9100".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("naive server on {}", listener.local_addr()?);
    naive::Naive::new().serve(listener).await;
    Ok(())
}

//! Serves the sample catalogue of the tests to MCP clients, and says where: `cargo run --example catalogue`.
#![expect(clippy::print_stdout, reason = "where it listens is what this program has to say")]

#[path = "../tests/sample/mod.rs"]
mod sample;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, sample::router()).await?;
    Ok(())
}

//! Writes the wire's descriptors to standard output, for `tests/check_against_sdk.py`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(mainspring_hatchet::wire::FILE_DESCRIPTOR_SET)
}

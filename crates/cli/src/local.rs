//! How the command line finds the server that runs on a directory of this machine.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use mainspring_client::TenantId;
use mainspring_core::TokenId;
use mainspring_server::Keys;
use mainspring_server::auth::{Grant, Scope};
use serde::{Deserialize, Serialize};

use crate::ServerArgs;
use crate::config::tenant_id;
use crate::part::Common;

/// Seconds a token made for one command lasts.
const OPERATOR_TTL_S: u64 = 60;

/// What a running server leaves in its directory.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    url: String,
    pid: u32,
    tenant: String,
    /// The names of all its tenants.
    #[serde(default)]
    tenants: Vec<String>,
    /// The file of the signing key, if it is not in the directory.
    #[serde(default)]
    signing_key: Option<PathBuf>,
}

impl Running {
    fn keys(&self, dir: &Path) -> anyhow::Result<Keys> {
        let Some(path) = &self.signing_key else { return Ok(Keys::load_or_create(dir)?) };
        Keys::load(path)?.with_context(|| format!("{} is not there any more", path.display()))
    }
}

/// A server to talk to.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) token: String,
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("server.json")
}

pub(crate) fn write(dir: &Path, url: &str, common: &Common) -> anyhow::Result<()> {
    let running = Running {
        url: url.to_owned(),
        pid: std::process::id(),
        tenant: common.home().to_string(),
        tenants: common.tenants().into_iter().map(|(_, name)| name.to_owned()).collect(),
        signing_key: common.setup().signing_key().map(std::path::absolute).transpose()?,
    };
    let draft = dir.join("server.json.tmp");
    fs::write(&draft, serde_json::to_vec_pretty(&running)?)?;
    fs::rename(&draft, path_in(dir)).context("server.json could not be written")
}

pub(crate) fn remove(dir: &Path) {
    // Without it the command line says that no server runs, which is then true.
    let _ = fs::remove_file(path_in(dir));
}

pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// The server named by address and token, or the one that runs on the directory, with a token made for this command by the
/// key that lies there.
pub(crate) fn find(args: &ServerArgs) -> anyhow::Result<Server> {
    if let (Some(url), Some(token)) = (&args.url, &args.token) {
        return Ok(Server { url: url.trim_end_matches('/').to_owned(), token: token.clone() });
    }
    let running = running(&args.dir)?;
    let keys = running.keys(&args.dir)?;
    let tenant = match &args.tenant {
        Some(name) => tenant_id(name),
        None => running.tenant.parse().context("server.json names no tenant")?,
    };
    sign_for(&keys, running.url, tenant)
}

/// The same for each tenant of the server, by name; for the one alone that is named, or whose token was given.
pub(crate) fn find_all(args: &ServerArgs) -> anyhow::Result<Vec<(String, Server)>> {
    if (args.url.is_some() && args.token.is_some()) || args.tenant.is_some() {
        let name = args.tenant.clone().unwrap_or_else(|| "the token's".to_owned());
        return Ok(vec![(name, find(args)?)]);
    }
    let running = running(&args.dir)?;
    let keys = running.keys(&args.dir)?;
    let Running { url, tenants, .. } = running;
    let each = tenants.into_iter().map(|name| {
        let server = sign_for(&keys, url.clone(), tenant_id(&name))?;
        Ok((name, server))
    });
    each.collect()
}

fn running(dir: &Path) -> anyhow::Result<Running> {
    let path = path_in(dir);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("no server runs on {}: start one with 'mainspring dev', name its directory with --dir, or use --url and --token", dir.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is not understood", path.display()))
}

/// A server on this machine, with a token made for one command.
fn sign_for(keys: &Keys, url: String, tenant: TenantId) -> anyhow::Result<Server> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let grant = Grant {
        id: TokenId(u128::from_le_bytes(random)),
        tenant,
        scopes: &[Scope::Admin],
        ttl_s: OPERATOR_TTL_S,
        server_url: &url,
        grpc_address: "",
    };
    let (token, _) = keys.sign(&grant)?;
    Ok(Server { url, token })
}

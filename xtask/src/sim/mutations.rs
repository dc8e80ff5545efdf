//! Bugs planted on purpose. Each replaces a few words of the product, in a copy of the workspace, by words that are wrong
//! when its number is asked for; so one build serves all of them, and the product itself has no trace of it.
//!
//! A bug whose words are not found any more, or more than once, is an error: the list is mended with the code.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::workspace::Workspace;

/// A bug.
struct Mutation {
    name: &'static str,
    file: &'static str,
    /// What is there, exactly once.
    right: &'static str,
    /// What is there instead. `BUG` is whether this bug is asked for.
    wrong: &'static str,
}

/// Seeds within which each must be found.
const SEEDS_MAX: u64 = 2_000;

const MUTATIONS: [Mutation; 39] = [
    Mutation {
        name: "acknowledge before durable",
        file: "crates/engine/src/commit.rs",
        right: "        let result = self.log.append(&[&batch.writes]);\n",
        wrong: "        let mut batch = batch;
        if BUG {
            let position = partition.durable_position();
            for (respond, answer) in std::mem::take(&mut batch.answers) {
                respond(answer.map(|reply| (reply, position)).map_err(EngineError::Refused));
            }
        }
        let result = self.log.append(&[&batch.writes]);\n",
    },
    Mutation {
        name: "drop the attempt check",
        file: "crates/core/src/task.rs",
        right: "                    && task.attempt == claim.attempt
                    && claim.invocation.is_none_or(|invocation| invocation == task.invocation) =>",
        wrong: "                    && (BUG || task.attempt == claim.attempt
                    && claim.invocation.is_none_or(|invocation| invocation == task.invocation)) =>",
    },
    Mutation {
        name: "lose an inbox message at the end of a run",
        file: "crates/core/src/inbox.rs",
        right: "        if inbox.unread.is_empty() {\n            let gone = self.t.inboxes.remove(&place);",
        wrong: "        if BUG || inbox.unread.is_empty() {\n            let gone = self.t.inboxes.remove(&place);",
    },
    Mutation {
        name: "leave what has come among what is waited for",
        file: "crates/core/src/journal.rs",
        right: "        if pending.apart {\n            self.out.delete(",
        wrong: "        if pending.apart && !BUG {\n            self.out.delete(",
    },
    Mutation {
        name: "fire a timer early",
        file: "crates/core/src/timer.rs",
        right: "        if self.next_due()? > now {",
        wrong: "        if self.next_due()? > now + if BUG { 20 } else { 0 } {",
    },
    Mutation {
        name: "leave the tasks of a disconnected worker with it",
        file: "crates/core/src/worker.rs",
        right: "        for task in worker.running {\n",
        wrong: "        for task in worker.running {\n            if BUG {\n                continue;\n            }\n",
    },
    Mutation {
        name: "leak a slot",
        file: "crates/core/src/worker.rs",
        right: "            worker.give_back(&slots);\n",
        wrong: "            if !BUG {\n                worker.give_back(&slots);\n            }\n",
    },
    Mutation {
        name: "give a slot back twice",
        file: "crates/core/src/worker.rs",
        right: "taken.saturating_sub(*units);",
        wrong: "taken.saturating_sub(*units * if BUG { 2 } else { 1 });",
    },
    Mutation {
        name: "ignore an acknowledgement",
        file: "crates/core/src/worker.rs",
        right: "            task.acknowledged = task.invocation;\n",
        wrong: "            if !BUG {\n                task.acknowledged = task.invocation;\n            }\n",
    },
    Mutation {
        name: "end a run that has something to undo",
        file: "crates/core/src/run.rs",
        right: "        if !run.row.guarded || run.row.state == RunState::Parked {\n",
        wrong: "        if BUG || !run.row.guarded || run.row.state == RunState::Parked {\n",
    },
    Mutation {
        name: "do not record what is taken from a rate limit",
        file: "crates/core/src/rate.rs",
        right: "            rate.row.left = rate.row.left.saturating_sub(units);\n            self.record_rate(name);\n",
        wrong: "            rate.row.left = rate.row.left.saturating_sub(units);
            if !BUG {
                self.record_rate(name);
            }\n",
    },
    Mutation {
        name: "let a function take more than a rate limit has",
        file: "crates/core/src/journal.rs",
        right: "            Err(Refusal::TooFast { retry_after_ms, .. }) => {\n",
        wrong: "            Err(Refusal::TooFast { .. }) if BUG => Begun::Done(Completion::Bool(true)),
            Err(Refusal::TooFast { retry_after_ms, .. }) => {\n",
    },
    Mutation {
        name: "forget children's names in a restart",
        file: "crates/core/src/recover.rs",
        right: "        run.named.insert((task.index, row.name), row.run);\n",
        wrong: "        if !BUG {\n            run.named.insert((task.index, row.name), row.run);\n        }\n",
    },
    Mutation {
        name: "apply a batch of the tables again, as if it were new",
        file: "crates/store/src/tables/apply.rs",
        right: "        if batch.position <= applied.position {",
        wrong: "        if !BUG && batch.position <= applied.position {",
    },
    Mutation {
        name: "skip fencing",
        file: "crates/engine/src/commit.rs",
        right: "        let result = self.log.append(&[&batch.writes]);\n",
        wrong: "        let result = match self.log.append(&[&batch.writes]) {
            Err(LogError::Fenced) if BUG => Ok(Position(partition.durable_position() + 1)),
            other => other,
        };\n",
    },
    Mutation {
        name: "reuse an id",
        file: "crates/core/src/id.rs",
        right: "        Ids { now, nth, seed, minted: 0 }",
        wrong: "        if BUG { Ids { now, nth: 0, seed: 0, minted: 0 } } else { Ids { now, nth, seed, minted: 0 } }",
    },
    Mutation {
        name: "forget a wake-up",
        file: "crates/core/src/journal.rs",
        right: "            TaskState::Suspended { .. } => self.wake(id),",
        wrong: "            TaskState::Suspended { .. } => {\n                if !BUG {\n                    self.wake(id)\n                }\n            }",
    },
    Mutation {
        name: "cross a tenant",
        file: "crates/engine/src/hub.rs",
        right: "state.workers.get(&(dispatch.tenant, dispatch.worker))",
        wrong: "state.workers.iter().find(|((of, id), _)| *id == dispatch.worker && (BUG || *of == dispatch.tenant)).map(|(_, to)| to)",
    },
    Mutation {
        name: "forget idempotency keys in a restart",
        file: "crates/core/src/recover.rs",
        right: "            core.tenants.entry(tenant_of(&key)?).or_default().idempotency.insert(name.into(), row);",
        wrong: "            if !BUG {
                core.tenants.entry(tenant_of(&key)?).or_default().idempotency.insert(name.into(), row);
            }",
    },
    Mutation {
        name: "let one run too many in for a key",
        file: "crates/core/src/key.rs",
        right: "        if queue.live.len() < rule.runs_max as usize {",
        wrong: "        if queue.live.len() < rule.runs_max as usize + usize::from(BUG) {",
    },
    Mutation {
        name: "do not hand a key on",
        file: "crates/core/src/key.rs",
        right: "        while let Some(&(_, _, next)) = queue.waiting.first() {",
        wrong: "        while let Some(&(_, _, next)) = queue.waiting.first().filter(|_| !BUG) {",
    },
    Mutation {
        name: "take a torn record for a whole one",
        file: "crates/store/src/log/format.rs",
        right: "        crc32c::crc32c_append(seed_crc(salt, self.length, self.position), payload) == self.crc",
        wrong: "        (BUG && self.length > 0) || crc32c::crc32c_append(seed_crc(salt, self.length, self.position), payload) == self.crc",
    },
    Mutation {
        name: "take a batch in doubt for appended",
        file: "crates/engine/src/commit.rs",
        right: "            Ok(None) => self.append(partition, batch),",
        wrong: "            Ok(None) if BUG => appended(partition, batch, Ok(Position(partition.durable_position()))),
            Ok(None) => self.append(partition, batch),",
    },
    Mutation {
        name: "append a batch in doubt again",
        file: "crates/engine/src/commit.rs",
        right: "            Ok(Some(position)) => appended(partition, batch, Ok(position)),",
        wrong: "            Ok(Some(_)) if BUG => self.append(partition, batch),
            Ok(Some(position)) => appended(partition, batch, Ok(position)),",
    },
    Mutation {
        name: "keep the messages of a superseded turn",
        file: "crates/core/src/inbox.rs",
        right: "            row.state = if how == RunState::Superseded { MessageState::Unread }",
        wrong: "            row.state = if how == RunState::Superseded && !BUG { MessageState::Unread }",
    },
    Mutation {
        name: "let go of log segments before the tables are durable",
        file: "crates/engine/src/applier.rs",
        right: "        let position = partition.unapplied.applied();\n",
        wrong: "        let position = if BUG { partition.durable_position() } else { partition.unapplied.applied() };\n",
    },
    Mutation {
        name: "read past what is not applied yet",
        file: "crates/store/src/reader.rs",
        right: "        match self.unapplied.get(table, key) {\n",
        wrong: "        match self.unapplied.get(table, key).filter(|_| !BUG) {\n",
    },
    Mutation {
        name: "let an interrupted agent act",
        file: "crates/core/src/fence.rs",
        right: "        self.drop_fence(claim.task);\n        Ok(Reply::Interrupted(true))",
        wrong: "        if !BUG {\n            self.drop_fence(claim.task);\n        }\n        Ok(Reply::Interrupted(true))",
    },
    Mutation {
        name: "do not ask for a fence before a document is written",
        file: "crates/core/src/document.rs",
        right: "            self.check_fence(fence)?;\n",
        wrong: "            if !BUG {\n                self.check_fence(fence)?;\n            }\n",
    },
    Mutation {
        name: "carry a step out before what was noted is durable",
        file: "crates/client/src/context.rs",
        right: "                self.journal.flush().await?;\n                let (result, took_ms)",
        wrong: "                if !BUG {\n                    self.journal.flush().await?;\n                }\n                let (result, took_ms)",
    },
    Mutation {
        name: "do not look at a document's version",
        file: "crates/core/src/document.rs",
        right: "            Some(expected) if expected != found => Err(",
        wrong: "            Some(expected) if !BUG && expected != found => Err(",
    },
    Mutation {
        name: "forget marks of documents too early",
        file: "crates/core/src/document.rs",
        right: "        let until = self.now.saturating_add(self.limits.document_mark_ms);\n",
        wrong: "        let until = self.now.saturating_add(if BUG { 1 } else { self.limits.document_mark_ms });\n",
    },
    Mutation {
        name: "do not close the inbox for an irreversible effect",
        file: "crates/core/src/document.rs",
        right: "fence.filter(|_| guard.passes_commit_point)",
        wrong: "fence.filter(|_| guard.passes_commit_point && !BUG)",
    },
    Mutation {
        name: "write the documents of a commit that a message stops",
        file: "crates/core/src/journal.rs",
        right: "        if self.messages_wait(id.run) && !commit.force {\n",
        wrong: "        if self.messages_wait(id.run) && !commit.force {\n            if BUG {\n                for put in commit.documents {\n                    self.write_document(put, Some(id.run), facts);\n                }\n            }\n",
    },
    Mutation {
        name: "forget a provider's id",
        file: "crates/core/src/inbox.rs",
        right: "known.and_then(|body| read_once(&body))",
        wrong: "known.and_then(|body| read_once(&body)).filter(|_| !BUG)",
    },
    Mutation {
        name: "begin a chain of turns anew without end",
        file: "crates/flows/src/turn.rs",
        right: "        self.ctx.lineage().superseded_before + self.absorbed\n",
        wrong: "        if BUG { 0 } else { self.ctx.lineage().superseded_before + self.absorbed }\n",
    },
    Mutation {
        name: "carry an effect out again though it was begun",
        file: "crates/flows/src/calls.rs",
        right: "                // It certainly did not happen, or may happen again under the same key.\n",
        wrong: "                (EffectStatus::Started, _) if BUG => {}\n",
    },
    Mutation {
        name: "speak without passing the commit point",
        file: "crates/flows/src/voice.rs",
        right: "        if let Some(fence) = self.commits\n",
        wrong: "        if let Some(fence) = self.commits.filter(|_| !BUG)\n",
    },
    Mutation {
        name: "let a delivery's status go back",
        file: "crates/flows/src/receipts.rs",
        right: "is_some_and(|known| receipt.status <= known.status)",
        wrong: "is_some_and(|known| !BUG && receipt.status <= known.status)",
    },
];

/// What asks for a bug by its number.
const SWITCH: &str = "//! Which of the planted bugs is active: only in this copy.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The number of the active bug; 0 for none.
pub static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// Whether the bug with this number is active.
pub fn is(number: usize) -> bool {
    ACTIVE.load(Ordering::Relaxed) == number
}
";

pub(super) fn run(workspace: &Workspace, rest: &[String]) -> anyhow::Result<()> {
    ensure!(rest.is_empty(), "--mutations takes no more arguments, not {rest:?}");
    let tree = workspace.scratch("mutations/tree")?;
    copy(workspace, &tree)?;
    for (nth, mutation) in MUTATIONS.iter().enumerate() {
        plant(&tree, nth + 1, mutation)?;
    }
    plant_switch(&tree)?;
    let target = workspace.scratch("mutations/build")?;
    println!("building a copy with {} bugs", MUTATIONS.len());
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--package", "mainspring-sim"])
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", &target)
        .status()?;
    ensure!(built.success(), "the copy with the bugs does not build: its words no longer fit the code around them");
    let binary = target.join("debug").join("mainspring-sim");
    let mut missed = Vec::new();
    println!("{:>8}  bug", "seed");
    let none = find(&binary, 0, 200)?;
    ensure!(none.is_none(), "without a bug, seed {none:?} breaks a promise");
    println!("{:>8}  none planted, 200 seeds", "-");
    for (nth, mutation) in MUTATIONS.iter().enumerate() {
        match find(&binary, nth + 1, SEEDS_MAX)? {
            Some((seed, what)) => println!("{seed:>8}  {}: {what}", mutation.name),
            None => {
                println!("{:>8}  {}", "MISSED", mutation.name);
                missed.push(mutation.name);
            }
        }
    }
    if !missed.is_empty() {
        bail!("not found within {SEEDS_MAX} seeds: {}", missed.join("; "));
    }
    println!("all {} are found within {SEEDS_MAX} seeds", MUTATIONS.len());
    Ok(())
}

/// The first seed, counted from 1, in which a bug shows, and how.
fn find(binary: &Path, number: usize, seeds: u64) -> anyhow::Result<Option<(u64, String)>> {
    let ran = Command::new(binary)
        .args(["--from", "1", "--threads", "1", "--once", "--seeds", &seeds.to_string()])
        .env("MAINSPRING_BUG", number.to_string())
        .output()?;
    let text = String::from_utf8_lossy(&ran.stdout);
    let line = text.lines().find(|line| line.starts_with("seed "));
    ensure!(line.is_some() != ran.status.success(), "bug {number}: the simulator ended with {}:\n{text}", ran.status);
    let Some(line) = line else { return Ok(None) };
    let (seed, what) = line["seed ".len()..].split_once(": ").context("seed and what")?;
    Ok(Some((seed.parse()?, what.chars().take(110).collect())))
}

fn copy(workspace: &Workspace, tree: &Path) -> anyhow::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "-z"])
        .current_dir(&workspace.root)
        .output()
        .context("git ls-files")?;
    ensure!(listed.status.success(), "git ls-files failed");
    for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (workspace.root.join(name), tree.join(name));
        let Ok(bytes) = std::fs::read(&from) else { continue };
        // What is the same keeps its time, so that only what changed is built again.
        if std::fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        if let Some(dir) = to.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&to, bytes)?;
    }
    Ok(())
}

fn plant(tree: &Path, number: usize, mutation: &Mutation) -> anyhow::Result<()> {
    let path = tree.join(mutation.file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let found = text.matches(mutation.right).count();
    ensure!(found == 1, "bug {:?}: its words are found {found} times in {}", mutation.name, mutation.file);
    let krate = match mutation.file {
        file if file.starts_with("crates/core/") => "crate",
        // They know the core only through the client.
        file if file.starts_with("crates/flows/") => "mainspring_client",
        _ => "mainspring_core",
    };
    let wrong = mutation.wrong.replace("BUG", &format!("{krate}::mutant::is({number})"));
    std::fs::write(&path, text.replacen(mutation.right, &wrong, 1))?;
    Ok(())
}

fn plant_switch(tree: &Path) -> anyhow::Result<()> {
    std::fs::write(tree.join("crates/core/src/mutant.rs"), SWITCH)?;
    let edit = |file: &str, right: &str, wrong: &str| -> anyhow::Result<()> {
        let path = tree.join(file);
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.matches(right).count() == 1, "{right:?} is not found once in {file}");
        std::fs::write(&path, text.replacen(right, wrong, 1))?;
        Ok(())
    };
    edit("crates/core/src/lib.rs", "pub mod machine;\n", "pub mod machine;\npub mod mutant;\n")?;
    edit(
        "crates/client/src/lib.rs",
        "pub use mainspring_engine::EngineError;\n",
        "pub use mainspring_core::mutant;\npub use mainspring_engine::EngineError;\n",
    )?;
    edit(
        "crates/sim/src/main.rs",
        "    let args = Args::parse();\n",
        "    let args = Args::parse();
    let bug = std::env::var(\"MAINSPRING_BUG\").ok().and_then(|bug| bug.parse().ok()).unwrap_or(0);
    mainspring_core::mutant::ACTIVE.store(bug, Ordering::Relaxed);\n",
    )
}
